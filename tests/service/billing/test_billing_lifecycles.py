"""What runs for long in the billing engine keeps the one contract of all that does, with work to do and without."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from service.supervisor import Supervisor
from tests.support.billing.billing_world import TenantBilling
from tests.support.database_waits import until
from tests.support.lifecycle_stress import Runs, stress_lifecycle

SCANNERS = ("unanswered charges", "renewals", "trials", "incomplete", "recoveries", "cards awaited")
PARTS = ("charges", "checkout expiry", *SCANNERS)


def part(billing: TenantBilling, name: str) -> Runs:
    parts = {each.name: each.runs for stage in billing.engine.stages() for each in stage}
    assert set(parts) == {f"{part} {billing.engine.mode}" for part in PARTS}
    return parts[f"{name} {billing.engine.mode}"]


async def renewals_due(billing: TenantBilling, count: int) -> None:
    plan = await billing.plan(interval="hour")
    for _ in range(count):
        await billing.subscribe(plan)
    billing.clock.advance(billing.clock.time + timedelta(hours=1))


@pytest.mark.parametrize("name", PARTS[1:])
async def test_every_part_keeps_the_lifecycle_s_contract(billing: TenantBilling, name: str) -> None:
    await renewals_due(billing, 3)
    await stress_lifecycle(part(billing, name))


async def test_the_cashier_keeps_it_too(idle_shop: TenantBilling) -> None:
    await stress_lifecycle(part(idle_shop, "charges"))


async def test_a_whole_engine_keeps_it_and_leaves_no_task_behind(
    idle_shop: TenantBilling, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(idle_shop.engine.stages(), patience_s=5)
    before = asyncio.all_tasks()
    await stress_lifecycle(supervisor, turns=6)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert not any(part.total for part in supervisor.failures), caplog.text


async def test_answers_outlive_a_cashier_that_is_cancelled_while_it_writes_them(
    idle_shop: TenantBilling, owner: asyncpg.Connection
) -> None:
    charges = idle_shop.engine.charges
    before = asyncio.all_tasks()
    made = await idle_shop.checkout.subscribe(
        idle_shop.contact(), (await idle_shop.plan()).id, await idle_shop.card()
    )
    async with owner.transaction():
        await owner.execute("SELECT FROM subscriptions FOR UPDATE")
        writing = asyncio.create_task(charges.run(asyncio.Event()))
        await until(owner, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        writing.cancel()
        await asyncio.wait([writing])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    stop = asyncio.Event()
    writing = asyncio.create_task(charges.run(stop))
    async with asyncio.timeout(10):
        await charges.settled()
    stop.set()
    await writing
    assert (await idle_shop.subscription(made.id)).status == "active"
