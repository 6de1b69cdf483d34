"""A scanner that can do nothing rests, instead of querying continuously."""

from service.billing.decisions.failure_codes import FailureCode
from service.billing.gateway.gateway import Order, Outcome
from tests.support.billing.billing_world import TenantBilling


def silent(_order: Order) -> Outcome:
    raise ConnectionError


async def test_a_refund_in_flight_makes_recovery_not_due(billing: TenantBilling) -> None:
    """It cannot begin before the refund's answer, which may take hours."""
    sub = await billing.subscribe()
    (paid,) = await billing.payments()
    billing.gateway.answers = lambda _order: Outcome(FailureCode.INSUFFICIENT_FUNDS)
    await billing.after(days=31)
    billing.gateway.answers = silent
    await billing.subscriptions.refund(paid.id)
    await billing.engine.charges.settled()
    schedule = await billing.schedule(sub)
    assert schedule
    assert schedule.next_attempt_at
    billing.clock.advance(schedule.next_attempt_at)
    (recoveries,) = (scanner for scanner in billing.engine.scanners if scanner.name == "recoveries")
    assert await recoveries.step() == 0
    billing.gateway.answers = lambda _order: None
    await billing.scan()
    assert (await billing.subscription(sub)).status == "active"
    assert billing.gateway.refunded.total() == paid.amount, "it was asked for again, and given back once"
