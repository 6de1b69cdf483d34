"""An unreadable payment method or wallet delays its charge and nothing else."""

from uuid import UUID

import pytest

from schema.billing.rows import PaymentState
from service.billing.charges import ChargeProcessor
from service.billing.decisions.invoicing import LEASE
from tests.support.billing.billing_world import TenantBilling

SEALED_WITH_ANOTHER_KEY = b"\x01" * 64


async def all_due(billing: TenantBilling) -> list[UUID]:
    subs = [await billing.subscribe() for _ in range(5)]
    billing.clock.advance(max([(await billing.subscription(sub)).current_period_end for sub in subs]))
    return subs


async def reseal(billing: TenantBilling, sub: UUID, token: bytes) -> bytes:
    """The one before."""
    method = (await billing.subscription(sub)).payment_method_id
    before: bytes = await billing.database.core.fetchval(
        "SELECT sealed_token FROM saved_payment_methods WHERE id = $1", method
    )
    await billing.database.core.execute(
        "UPDATE saved_payment_methods SET sealed_token = $2 WHERE id = $1", method, token
    )
    return before


async def states(billing: TenantBilling, subs: list[UUID]) -> list[PaymentState]:
    """Of the renewals."""
    latest = {payment.subscription_id: payment.state for payment in await billing.payments()}
    return [latest[sub] for sub in subs]


async def test_an_unreadable_method_blocks_no_other_and_is_charged_later(
    billing: TenantBilling,
) -> None:
    subs = await all_due(billing)
    token = await reseal(billing, subs[0], SEALED_WITH_ANOTHER_KEY)
    assert await billing.step("renewals") == 5
    await billing.engine.charges.settled()
    assert await states(billing, subs) == ["in_flight", *["succeeded"] * 4]
    await reseal(billing, subs[0], token)
    billing.clock.advance(billing.clock.time + LEASE)
    assert await billing.step("unanswered charges") == 1
    await billing.engine.charges.settled()
    assert await states(billing, subs) == ["succeeded"] * 5


async def test_an_unreadable_method_blocks_no_other_takeover(
    billing: TenantBilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = await all_due(billing)
    with monkeypatch.context() as dying:
        dying.setattr(ChargeProcessor, "submit", forget)
        assert await billing.step("renewals") == 5
    await reseal(billing, subs[0], SEALED_WITH_ANOTHER_KEY)
    billing.clock.advance(billing.clock.time + LEASE)
    assert await billing.step("unanswered charges") == 5
    await billing.engine.charges.settled()
    assert await states(billing, subs) == ["in_flight", *["succeeded"] * 4]


async def forget(_charges: ChargeProcessor, _begun: object) -> None:
    """As a process that dies after the commit."""


async def test_subscribing_without_a_readable_wallet_charges_later(
    billing: TenantBilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(_ids: object) -> None:
        raise ConnectionResetError

    plan, card = await billing.plan(), await billing.card()
    with monkeypatch.context() as outage:
        outage.setattr(billing.engine.charges, "_tokens", no_connection)
        made = await billing.checkout.subscribe(billing.contact(), plan.id, card)
    billing.clock.advance(billing.clock.time + LEASE)
    assert await billing.step("unanswered charges") == 1
    await billing.engine.charges.settled()
    assert (await billing.subscription(made.id)).status == "active"


async def test_a_refund_does_not_need_a_readable_method(billing: TenantBilling) -> None:
    """It uses the charge's reference."""
    sub = await billing.subscribe()
    (paid,) = await billing.payments()
    await reseal(billing, sub, SEALED_WITH_ANOTHER_KEY)
    await billing.subscriptions.refund(paid.id)
    await billing.engine.charges.settled()
    assert billing.gateway.refunded.total() == paid.amount
