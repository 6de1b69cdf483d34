"""A scanner that finds nothing it can do says so, and rests: else it would ask again at once, for as long as that lasts."""

from service.billing.decisions.failure_codes import FailureCode
from service.billing.gateway.gateway import Order, Outcome
from tests.support.billing.billing_world import Business


def silent(_order: Order) -> Outcome:
    raise ConnectionError


async def test_a_recovery_is_not_due_while_a_refund_is_under_way(shop: Business) -> None:
    """It cannot begin before that has its answer, which a gateway in trouble may not give for hours."""
    sub = await shop.subscribe()
    (paid,) = await shop.payments()
    shop.gateway.answers = lambda _order: Outcome(FailureCode.INSUFFICIENT_FUNDS)
    await shop.after(days=31)
    shop.gateway.answers = silent
    await shop.subscriptions.refund(paid.id)
    await shop.engine.charges.settled()
    schedule = await shop.schedule(sub)
    assert schedule
    assert schedule.next_attempt_at
    shop.clock.advance(schedule.next_attempt_at)
    (recoveries,) = (scanner for scanner in shop.engine.scanners if scanner.name == "recoveries")
    assert await recoveries.step() == 0
    shop.gateway.answers = lambda _order: None
    await shop.scan()
    assert (await shop.subscription(sub)).status == "active"
    assert shop.gateway.refunded.total() == paid.amount, "it was asked for again, and given back once"
