"""A payment method that cannot be opened, or a wallet that cannot be read: the charge waits, and nothing else does."""

from uuid import UUID

import pytest

from schema.billing.rows import PaymentState
from service.billing.charges import ChargeProcessor
from service.billing.decisions.invoicing import LEASE
from tests.support.billing.billing_world import Business

SEALED_WITH_ANOTHER_KEY = b"\x01" * 64


async def all_due(shop: Business) -> list[UUID]:
    subs = [await shop.subscribe() for _ in range(5)]
    shop.clock.advance(max([(await shop.subscription(sub)).current_period_end for sub in subs]))
    return subs


async def reseal(shop: Business, sub: UUID, token: bytes) -> bytes:
    """The one before."""
    method = (await shop.subscription(sub)).payment_method_id
    before: bytes = await shop.database.core.fetchval(
        "SELECT sealed_token FROM saved_payment_methods WHERE id = $1", method
    )
    await shop.database.core.execute(
        "UPDATE saved_payment_methods SET sealed_token = $2 WHERE id = $1", method, token
    )
    return before


async def states(shop: Business, subs: list[UUID]) -> list[PaymentState]:
    """Of the renewals."""
    latest = {payment.subscription_id: payment.state for payment in await shop.payments()}
    return [latest[sub] for sub in subs]


async def test_a_method_that_cannot_be_opened_holds_nobody_up_and_is_charged_when_it_can(
    shop: Business,
) -> None:
    subs = await all_due(shop)
    token = await reseal(shop, subs[0], SEALED_WITH_ANOTHER_KEY)
    assert await shop.step("renewals") == 5
    await shop.engine.charges.settled()
    assert await states(shop, subs) == ["in_flight", *["succeeded"] * 4]
    await reseal(shop, subs[0], token)
    shop.clock.advance(shop.clock.time + LEASE)
    assert await shop.step("unanswered charges") == 1
    await shop.engine.charges.settled()
    assert await states(shop, subs) == ["succeeded"] * 5


async def test_a_method_that_cannot_be_opened_holds_nobody_up_who_is_taken_over_with_it(
    shop: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = await all_due(shop)
    with monkeypatch.context() as dying:
        dying.setattr(ChargeProcessor, "submit", forget)
        assert await shop.step("renewals") == 5
    await reseal(shop, subs[0], SEALED_WITH_ANOTHER_KEY)
    shop.clock.advance(shop.clock.time + LEASE)
    assert await shop.step("unanswered charges") == 5
    await shop.engine.charges.settled()
    assert await states(shop, subs) == ["in_flight", *["succeeded"] * 4]


async def forget(_cashier: ChargeProcessor, _begun: object) -> None:
    """As a process that dies after the commit."""


async def test_who_subscribes_while_the_wallet_cannot_be_read_is_subscribed_and_charged_later(
    shop: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(_ids: object) -> None:
        raise ConnectionResetError

    plan, card = await shop.plan(), await shop.card()
    with monkeypatch.context() as outage:
        outage.setattr(shop.engine.charges, "_tokens", no_connection)
        made = await shop.checkout.subscribe(shop.contact(), plan.id, card)
    shop.clock.advance(shop.clock.time + LEASE)
    assert await shop.step("unanswered charges") == 1
    await shop.engine.charges.settled()
    assert (await shop.subscription(made.id)).status == "active"


async def test_a_refund_does_not_wait_for_a_method_that_cannot_be_opened(shop: Business) -> None:
    """It goes by its charge."""
    sub = await shop.subscribe()
    (paid,) = await shop.payments()
    await reseal(shop, sub, SEALED_WITH_ANOTHER_KEY)
    await shop.subscriptions.refund(paid.id)
    await shop.engine.charges.settled()
    assert shop.gateway.refunded.total() == paid.amount
