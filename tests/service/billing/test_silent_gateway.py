"""A gateway that does not answer: one order, some orders, or none.

Requested charges stay in flight, are requested again by the same reference, and block no other. No new charges begin.
"""

from collections.abc import Iterable

import pytest

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.errors import Conflict
from schema.ids import PAYMENT, format_id
from service.billing.charges import SILENT_AFTER, TRIES, ChargeProcessor, settle_by_hand
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import GatewayUnavailable, Order, Outcome
from service.billing.scanning import BATCH, Scanner, scanners
from tests.support.billing.billing_world import GOOD_CARD, TenantBilling, at_work, tenant_billing
from tests.support.billing.due import add_due
from tests.support.billing.gateways import HeldGateway
from tests.support.billing.payment_totals import check_payments

UNANSWERED = "unanswered charges"
ANSWER_WITHIN_S = 0.05
NEVER_S = 3600.0


def away(_order: Order) -> None:
    raise GatewayUnavailable


def worker(billing: TenantBilling, *, try_after_s: float = NEVER_S) -> tuple[ChargeProcessor, list[Scanner]]:
    """An impatient one."""
    ledger = billing.engine.ledger
    charges = ChargeProcessor(
        ledger,
        billing.gateway,
        billing.engine.charges._tokens,
        answer_within_s=ANSWER_WITHIN_S,
        try_after_s=try_after_s,
    )
    return charges, scanners(ledger, charges)


async def all_step(these: Iterable[Scanner], charges: ChargeProcessor) -> list[int]:
    """One after the other; what each found."""
    found = []
    for scanner in these:
        found.append(await scanner.step())
        await charges.settled()
    return found


async def in_flight(billing: TenantBilling) -> int:
    count: int = await billing.pool.fetchval(
        "SELECT count(*) FROM payment_attempts WHERE state = 'in_flight'"
    )
    return count


async def test_one_unanswered_order_blocks_no_other(billing: TenantBilling) -> None:
    odd = 123_456
    plans = [await billing.plan(amount, "week") for amount in (500_000, odd, 500_000)]
    subs = [await billing.subscribe(plan) for plan in plans]

    def picky(order: Order) -> Outcome | None:
        return away(order) if order.amount == odd else None

    billing.gateway.answers = picky
    for _ in range(3):
        await billing.after(weeks=1)
        await billing.after(seconds=LEASE.total_seconds())
    assert [(await billing.subscription(sub)).cycles for sub in subs] == [4, 1, 4]
    (waiting,) = [payment for payment in await billing.payments() if payment.state == "in_flight"]
    assert billing.gateway.charged[format_id(PAYMENT, waiting.id)] == 6
    billing.gateway.answers = lambda _order: None
    await billing.after(seconds=LEASE.total_seconds())
    assert (await billing.subscription(subs[1])).cycles >= 2


async def test_a_missing_answer_is_requested_again_after_a_while(
    database: Database,
) -> None:
    gateway = HeldGateway()
    async with tenant_billing(database, gateway=gateway) as billing:
        sub = await billing.subscribe()
        billing.clock.advance((await billing.subscription(sub)).current_period_end)
        charges, these = worker(billing)
        async with at_work(charges):
            gateway.hold()
            assert sum(await all_step(these, charges)) == 1
            assert await in_flight(billing) == 1
            gateway.release()
            assert sum(await all_step(these, charges)) == 0, "its lease has not run out"
            billing.clock.advance(billing.clock.time + LEASE)
            assert sum(await all_step(these, charges)) == 1
        assert (await billing.subscription(sub)).cycles == 2
        assert sorted(gateway.charged.values()) == [1, 2]
        await check_payments([billing.pool], gateway.known)


async def test_an_unavailable_gateway_limits_new_charges(billing: TenantBilling) -> None:
    """A subscription with a charge in flight allows no action, not even a cancellation."""
    await add_due(billing.database, billing.pool, billing.tenant, 1000, billing.clock.time, [GOOD_CARD])
    billing.gateway.answers = away
    charges, these = worker(billing)
    async with at_work(charges):
        while any(await all_step(these, charges)):
            pass
        assert SILENT_AFTER <= await in_flight(billing) <= BATCH + SILENT_AFTER


async def test_a_few_probes_detect_that_the_gateway_is_back(
    billing: TenantBilling,
) -> None:
    await add_due(billing.database, billing.pool, billing.tenant, 800, billing.clock.time, [GOOD_CARD])
    billing.gateway.answers = away
    charges, these = worker(billing, try_after_s=0)
    async with at_work(charges):
        await all_step(these, charges)
        assert await all_step(these, charges) == [0, TRIES, TRIES, 0, TRIES, 0]
        billing.gateway.answers = lambda _order: None
        billing.clock.advance(billing.clock.time + LEASE)
        assert (await all_step(these, charges))[0] == TRIES
        while any(await all_step(these, charges)):
            pass
    account = await check_payments([billing.pool], billing.gateway.known)
    assert account.charges == 800


async def test_a_gateway_that_answers_sometimes_counts_as_available(billing: TenantBilling) -> None:
    await add_due(billing.database, billing.pool, billing.tenant, 400, billing.clock.time, [GOOD_CARD])
    asked = 0

    def every_fifth(_order: Order) -> Outcome | None:
        nonlocal asked
        asked += 1
        return None if asked % 5 == 0 else away(_order)

    billing.gateway.answers = every_fifth
    charges, these = worker(billing)
    async with at_work(charges):
        while any(await all_step(these, charges)):
            pass
        assert await in_flight(billing) == 400 * 4 // 5


async def test_one_unanswered_order_does_not_mark_the_gateway_unavailable(
    billing: TenantBilling,
) -> None:
    """The number of requests does not matter."""
    sub = await billing.subscribe()
    billing.gateway.answers = away
    await billing.at((await billing.subscription(sub)).current_period_end)
    for _ in range(SILENT_AFTER + 1):
        await billing.after(seconds=LEASE.total_seconds())
    assert billing.engine.charges.room > TRIES
    (unanswered,) = await billing_cases.unanswered(billing.pool, billing.clock.time, 10)
    assert unanswered.subscription_id == sub
    assert (await billing_cases.status(billing.pool, billing.clock.time)).unanswered == 1


async def test_an_operator_settles_a_charge_that_is_never_answered(
    billing: TenantBilling,
) -> None:
    sub = await billing.subscribe()
    billing.gateway.answers = away
    await billing.at((await billing.subscription(sub)).current_period_end)
    (waiting,) = [payment for payment in await billing.payments() if payment.state == "in_flight"]
    await settle_by_hand(billing.engine.ledger, waiting, Outcome())
    row = await billing.subscription(sub)
    assert (row.status, row.cycles) == ("active", 2)
    with pytest.raises(Conflict, match="is not in flight"):
        await settle_by_hand(billing.engine.ledger, waiting, Outcome("05"))
    assert (await billing.subscription(sub)).cycles == 2
