"""What the scanners take, at the exact moment and one microsecond on either side of it."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import pytest

from schema.billing import billing_cases
from schema.billing.rows import DunningState, Status
from schema.connections.database import Connection
from schema.ids import new_id
from schema.queries import load
from service.billing.charges import SILENT_AFTER, TRIES
from tests.support.billing.billing_world import GOOD_CARD, TenantBilling
from tests.support.billing.due import add_due

STEP: Final = timedelta(microseconds=1)
AROUND: Final = (-STEP, timedelta(0), STEP)
Find = Callable[[Connection, datetime], Awaitable[Sequence[object]]]


async def renewals(tx: Connection, now: datetime) -> Sequence[object]:
    return await billing_cases.lock_due(tx, Status.ACTIVE, now, 10)


async def recoveries(tx: Connection, now: datetime) -> Sequence[object]:
    return await billing_cases.lock_recovering(tx, DunningState.WAITING, now, 10)


async def found(billing: TenantBilling, find: Find, change: str) -> list[int]:
    """How many are due, with one column moved around the present moment in turn."""
    await add_due(billing.database, billing.pool, billing.tenant, 4, billing.clock.time, [GOOD_CARD])
    counts = []
    async with billing.pool.acquire() as tx:
        for after in AROUND:
            transaction = tx.transaction()
            await transaction.start()
            await tx.execute(change, billing.clock.time + after)
            counts.append(len(await find(tx, billing.clock.time)))
            await transaction.rollback()
    return counts


@pytest.mark.parametrize(
    ("find", "change", "due"),
    [
        (renewals, "UPDATE subscriptions SET current_period_end = $1", 1),
        (renewals, "UPDATE subscriptions SET held_until = $1, fault = 'a defect'", 1),
        (recoveries, "UPDATE dunning_schedules SET next_attempt_at = $1", 2),
        (recoveries, "UPDATE subscriptions SET held_until = $1, fault = 'a defect'", 2),
    ],
    ids=["period", "held renewal", "next attempt", "held recovery"],
)
async def test_a_scanner_finds_what_is_due_from_the_exact_moment(
    billing: TenantBilling, find: Find, change: str, due: int
) -> None:
    assert await found(billing, find, change) == [due, due, 0]


async def test_a_schedule_whose_charge_is_under_way_is_not_due(billing: TenantBilling) -> None:
    under_way = "UPDATE dunning_schedules SET in_flight = true WHERE next_attempt_at <= $1"
    assert await found(billing, recoveries, under_way) == [0, 0, 0]


async def test_a_charge_is_taken_over_from_the_exact_end_of_its_lease(idle_billing: TenantBilling) -> None:
    billing = idle_billing
    await billing.checkout.subscribe(billing.contact(), (await billing.plan()).id, await billing.card())
    leased_until = await billing.pool.fetchval("SELECT leased_until FROM payment_attempts")
    for after, taken in zip(AROUND, (0, 1, 1), strict=True):
        async with billing.pool.acquire() as tx:
            transaction = tx.transaction()
            await transaction.start()
            later = leased_until + timedelta(hours=1)
            assert len(await billing_cases.take_over(tx, leased_until + after, 10, later)) == taken
            assert await billing_cases.take_over(tx, later, 10, later, [new_id()]) == []
            await transaction.rollback()


async def test_a_charge_is_unanswered_from_the_exact_moment(idle_billing: TenantBilling) -> None:
    billing = idle_billing
    await billing.checkout.subscribe(billing.contact(), (await billing.plan()).id, await billing.card())
    began = await billing.pool.fetchval("SELECT created_at FROM payment_attempts")
    counts = []
    for after in AROUND:
        listed = await billing.pool.fetch(load("billing_cases")["unanswered"], began + after, 10)
        counted = await billing.pool.fetchrow(load("billing_cases")["status"], began, began + after)
        assert counted["unanswered"] == len(listed)
        counts.append(len(listed))
    assert counts == [0, 1, 1]


async def test_a_subscription_is_held_until_the_exact_moment(billing: TenantBilling) -> None:
    await billing.subscribe()
    counts = []
    for after in AROUND:
        await billing.pool.execute(
            "UPDATE subscriptions SET held_until = $1, fault = 'a defect'", billing.clock.time + after
        )
        listed = await billing_cases.held(billing.pool, billing.clock.time, 10)
        assert (await billing_cases.status(billing.pool, billing.clock.time)).held == len(listed)
        counts.append(len(listed))
    assert counts == [0, 0, 1]


async def test_a_gateway_counts_as_down_after_exactly_silent_after(
    billing: TenantBilling,
) -> None:
    charges = billing.engine.charges
    charges._silent.update(new_id() for _ in range(SILENT_AFTER - 1))
    assert charges.room > TRIES
    charges._silent.add(new_id())
    assert charges.room == TRIES
