"""Every long-lived part of the billing engine keeps the lifecycle contract, with and without work."""

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


async def test_the_charge_processor_keeps_it_too(idle_billing: TenantBilling) -> None:
    await stress_lifecycle(part(idle_billing, "charges"))


async def test_a_whole_engine_keeps_it_and_leaves_no_task_behind(
    idle_billing: TenantBilling, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(idle_billing.engine.stages(), patience_s=5)
    before = asyncio.all_tasks()
    await stress_lifecycle(supervisor, turns=6)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert not any(part.total for part in supervisor.failures), caplog.text


async def test_answers_survive_a_cancelled_charge_processor(
    idle_billing: TenantBilling, owner: asyncpg.Connection
) -> None:
    charges = idle_billing.engine.charges
    before = asyncio.all_tasks()
    made = await idle_billing.checkout.subscribe(
        idle_billing.contact(), (await idle_billing.plan()).id, await idle_billing.card()
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
    assert (await idle_billing.subscription(made.id)).status == "active"
