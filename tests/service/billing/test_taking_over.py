"""The worker that begins a charge handles it while its lease lasts; then another asks the gateway by the same reference.

Of all answers from both workers one is written.
"""

from uuid import UUID

from schema.billing.billing_cases import Overdue
from schema.billing.rows import PaymentState, Status
from schema.core import wallet
from schema.ids import PAYMENT, format_id
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import Outcome
from tests.support.billing.billing_world import TenantBilling, second_worker
from tests.support.billing.gateways import HeldGateway, begin_renewal, start_held_renewal

UNANSWERED = "unanswered charges"


def later(billing: TenantBilling) -> None:
    billing.clock.advance(billing.clock.time + LEASE)


async def test_both_answers_come_and_one_is_written(held: tuple[TenantBilling, HeldGateway]) -> None:
    billing, gateway = held
    sub = await start_held_renewal(billing, gateway)
    async with second_worker(billing) as other:
        assert await other.step(UNANSWERED) == 0
        later(billing)
        assert await other.step(UNANSWERED) == 1
        await gateway.wait_for_charges(3)
        gateway.release()
        await billing.engine.charges.settled()
        await other.engine.charges.settled()
    await paid_once(billing, gateway, sub)


async def test_one_of_two_concurrent_answers_is_written(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    billing, gateway = held
    sub = await start_held_renewal(billing, gateway)
    later(billing)
    assert await billing.step(UNANSWERED) == 1
    await gateway.wait_for_charges(3)
    gateway.release()
    await billing.engine.charges.settled()
    await paid_once(billing, gateway, sub)


async def paid_once(billing: TenantBilling, gateway: HeldGateway, sub: UUID) -> None:
    renewal = (await billing.payments())[-1]
    assert gateway.charged[format_id(PAYMENT, renewal.id)] == 2
    assert renewal.state is PaymentState.SUCCEEDED
    assert (await billing.subscription(sub)).cycles == 2
    assert len(await billing.events("subscription_payment_success")) == 2


async def test_a_late_answer_does_not_change_a_newer_charge(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    """Another worker took over and got a failure.

    The slow worker's answers arrive after recovery has begun.
    """
    billing, gateway = held
    sub = await billing.subscribe()
    gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    await begin_renewal(billing, gateway, sub)
    gateway.stop_holding()
    later(billing)
    async with second_worker(billing) as other:
        assert await other.step(UNANSWERED) == 1
        await other.engine.charges.settled()
    assert (await billing.subscription(sub)).status is Status.PAST_DUE
    gateway.hold()
    assert await billing.step("recoveries") == 1
    await gateway.wait_for_charges(4)
    gateway.release()
    await billing.engine.charges.settled()
    assert (await billing.subscription(sub)).cycles == 2
    assert [payment.state for payment in await billing.payments()] == ["succeeded", "failed", "succeeded"]
    assert await billing.types() == [
        "subscription_created",
        "invoice_created",
        "subscription_payment_success",
        "subscription_activated",
        "invoice_created",
        "subscription_payment_failed",
        "subscription_past_due",
        "subscription_payment_recovered",
        "subscription_recovered",
    ]


async def test_a_successful_charge_survives_the_removal_of_its_card(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    """Otherwise it would look like a failed card and be charged again by the next rail."""
    billing, gateway = held
    sub = await start_held_renewal(billing, gateway)
    await remove_card(billing, sub)
    later(billing)
    gateway.stop_holding()
    async with second_worker(billing) as other:
        assert await other.step(UNANSWERED) == 1
        await other.engine.charges.settled()
    await paid_once(billing, gateway, sub)


async def test_a_charge_of_a_removed_card_fails(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    billing, gateway = held
    sub = await billing.subscribe()
    await remove_card(billing, sub)
    await begin_renewal(billing, gateway, sub)
    gateway.release()
    await billing.engine.charges.settled()
    renewal = (await billing.payments())[-1]
    assert (renewal.state, renewal.failure_code) == ("failed", "card_not_supported")


async def test_a_refund_needs_no_card(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    await remove_card(billing, sub)
    charge = (await billing.payments())[-1]
    await billing.subscriptions.refund(charge.id)
    await billing.engine.charges.settled()
    assert (await billing.types())[-1] == "subscription_payment_refunded"
    assert billing.gateway.refunded == {format_id(PAYMENT, charge.id): charge.amount}


async def remove_card(billing: TenantBilling, sub: UUID) -> None:
    method = (await billing.subscription(sub)).payment_method_id
    whose = "SELECT identity_id FROM saved_payment_methods WHERE id = $1"
    identity = await billing.database.core.fetchval(whose, method)
    await wallet.remove_method(billing.database.core, identity, method)


async def test_an_answer_to_a_settled_charge_does_nothing(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    (settled,) = await billing.payments()
    before, events = await billing.subscription(sub), await billing.types()
    billing.gateway.answered.clear()
    billing.gateway.answers = lambda _order: Outcome("stolen_card")
    await billing.engine.charges.submit([Overdue(settled, before.payment_method_id)])
    await billing.engine.charges.settled()
    assert (await billing.payments(), await billing.subscription(sub), await billing.types()) == (
        [settled],
        before,
        events,
    )
