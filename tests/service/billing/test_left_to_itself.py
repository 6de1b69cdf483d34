"""A running engine processes all due work."""

import asyncio

from schema.billing.rows import Interval
from service.billing.decisions.periods import boundary
from service.billing.engine import engine
from service.supervisor import Supervisor
from tests.support.billing.billing_world import START, TenantBilling

NEXT = boundary(START, Interval.MONTH, 1)


async def statuses(billing: TenantBilling) -> list[tuple[str, int]]:
    rows = await billing.pool.fetch("SELECT status, cycles FROM subscriptions ORDER BY created_at, id")
    return [(row["status"], row["cycles"]) for row in rows]


async def test_due_work_is_found_and_settled(billing: TenantBilling) -> None:
    """The running parts find the work without calls from the test."""
    for _ in range(3):
        await billing.subscribe()
    await billing.catalog.create_link((await billing.plan()).id, "gold")
    opened = await billing.checkout.open("gold")
    made = engine(billing.database, billing.engine.mode, billing.gateway, billing.engine.ledger)
    left, done, stop = 3, asyncio.Event(), asyncio.Event()

    def settled(count: int) -> None:
        nonlocal left
        left -= count
        if left == 0:
            done.set()

    made.charges.on_settled = settled
    billing.clock.advance(NEXT)
    running = asyncio.create_task(Supervisor(made.stages()).run(stop))
    async with asyncio.timeout(10):
        await done.wait()
        stop.set()
        await running
    assert await statuses(billing) == [("active", 2)] * 3
    expired = "SELECT status FROM checkout_sessions WHERE id = $1"
    assert await billing.pool.fetchval(expired, opened.id) == "expired"
