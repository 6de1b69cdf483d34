"""Whoever begins a charge answers for it for a while, and then others do: the gateway is asked again by the same reference,
and whatever answers come, and from whom, one is written.
"""

from uuid import UUID

from schema.billing.billing_cases import Overdue
from schema.billing.rows import PaymentState, Status
from schema.core import wallet
from schema.ids import PAYMENT, format_id
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import Outcome
from tests.support.billing.billing_world import Business, colleague
from tests.support.billing.gateways import HeldGateway, begin_renewal, renewing

UNANSWERED = "unanswered charges"


def later(shop: Business) -> None:
    shop.clock.advance(shop.clock.time + LEASE)


async def test_both_answers_come_and_one_is_written(held: tuple[Business, HeldGateway]) -> None:
    shop, gateway = held
    sub = await renewing(shop, gateway)
    async with colleague(shop) as other:
        assert await other.step(UNANSWERED) == 0
        later(shop)
        assert await other.step(UNANSWERED) == 1
        await gateway.has_been_asked(3)
        gateway.let_go()
        await shop.engine.charges.settled()
        await other.engine.charges.settled()
    await paid_once(shop, gateway, sub)


async def test_a_worker_that_takes_over_from_itself_writes_one_of_two_answers_that_come_at_once(
    held: tuple[Business, HeldGateway],
) -> None:
    shop, gateway = held
    sub = await renewing(shop, gateway)
    later(shop)
    assert await shop.step(UNANSWERED) == 1
    await gateway.has_been_asked(3)
    gateway.let_go()
    await shop.engine.charges.settled()
    await paid_once(shop, gateway, sub)


async def paid_once(shop: Business, gateway: HeldGateway, sub: UUID) -> None:
    renewal = (await shop.payments())[-1]
    assert gateway.charged[format_id(PAYMENT, renewal.id)] == 2
    assert renewal.state is PaymentState.SUCCEEDED
    assert (await shop.subscription(sub)).cycles == 2
    assert len(await shop.events("subscription_payment_success")) == 2


async def test_an_answer_that_comes_too_late_does_not_touch_the_charge_that_is_under_way_by_then(
    held: tuple[Business, HeldGateway],
) -> None:
    """Somebody took over and was refused, and who was slow has begun the recovery; both its answers come at once."""
    shop, gateway = held
    sub = await shop.subscribe()
    gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    await begin_renewal(shop, gateway, sub)
    gateway.hold_no_more()
    later(shop)
    async with colleague(shop) as other:
        assert await other.step(UNANSWERED) == 1
        await other.engine.charges.settled()
    assert (await shop.subscription(sub)).status is Status.PAST_DUE
    gateway.hold()
    assert await shop.step("recoveries") == 1
    await gateway.has_been_asked(4)
    gateway.let_go()
    await shop.engine.charges.settled()
    assert (await shop.subscription(sub)).cycles == 2
    assert [payment.state for payment in await shop.payments()] == ["succeeded", "failed", "succeeded"]
    assert await shop.types() == [
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


async def test_a_charge_that_worked_is_not_lost_with_a_card_that_is_removed_before_the_answer_is_written(
    held: tuple[Business, HeldGateway],
) -> None:
    """Taken for a card that never was, it would be charged again over the next rail."""
    shop, gateway = held
    sub = await renewing(shop, gateway)
    await remove_card(shop, sub)
    later(shop)
    gateway.hold_no_more()
    async with colleague(shop) as other:
        assert await other.step(UNANSWERED) == 1
        await other.engine.charges.settled()
    await paid_once(shop, gateway, sub)


async def test_a_charge_of_a_removed_card_that_was_never_made_is_refused(
    held: tuple[Business, HeldGateway],
) -> None:
    shop, gateway = held
    sub = await shop.subscribe()
    await remove_card(shop, sub)
    await begin_renewal(shop, gateway, sub)
    gateway.let_go()
    await shop.engine.charges.settled()
    renewal = (await shop.payments())[-1]
    assert (renewal.state, renewal.failure_code) == ("failed", "card_not_supported")


async def test_a_refund_needs_no_card(shop: Business) -> None:
    sub = await shop.subscribe()
    await remove_card(shop, sub)
    charge = (await shop.payments())[-1]
    await shop.subscriptions.refund(charge.id)
    await shop.engine.charges.settled()
    assert (await shop.types())[-1] == "subscription_payment_refunded"
    assert shop.gateway.refunded == {format_id(PAYMENT, charge.id): charge.amount}


async def remove_card(shop: Business, sub: UUID) -> None:
    method = (await shop.subscription(sub)).payment_method_id
    whose = "SELECT identity_id FROM saved_payment_methods WHERE id = $1"
    identity = await shop.database.core.fetchval(whose, method)
    await wallet.remove_method(shop.database.core, identity, method)


async def test_an_answer_to_what_is_settled_already_does_nothing(shop: Business) -> None:
    sub = await shop.subscribe()
    (settled,) = await shop.payments()
    before, told = await shop.subscription(sub), await shop.types()
    shop.gateway.answered.clear()
    shop.gateway.answers = lambda _order: Outcome("stolen_card")
    await shop.engine.charges.submit([Overdue(settled, before.payment_method_id)])
    await shop.engine.charges.settled()
    assert (await shop.payments(), await shop.subscription(sub), await shop.types()) == (
        [settled],
        before,
        told,
    )
