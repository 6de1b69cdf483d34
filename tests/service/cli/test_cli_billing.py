"""`duro billing`: the scanners as an operator runs them, and the simulation as anyone tries it."""

import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.ids import PAYMENT, SUBSCRIPTION, TENANT, format_id, new_id
from schema.modes import Mode
from service.billing.gateway.gateway import GatewayUnavailable, Order, Outcome
from service.cli.billing.billing_simulate import Lines
from service.simulation.simulation_setup import RUNNING, SIMULATING, Plot, Progress
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.support.billing.billing_world import TenantBilling, tenant_billing

MONTHS_AGO = timedelta(days=40)
POISON = """
CREATE FUNCTION sandbox.poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'this one cannot be invoiced'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON sandbox.invoices FOR EACH ROW EXECUTE FUNCTION sandbox.poison();
"""


async def apart(duro: Duro, *arguments: str) -> Any:
    """In a process of its own, since it listens for signals."""
    outcome = await duro.process(*arguments, "--json")
    assert outcome.status == 0, outcome
    return outcome.json


async def subscribed_weeks_ago(database: Database) -> TenantBilling:
    """By a clock that is behind: what it began is due by the real one."""
    async with tenant_billing(
        database, start=await billing_cases.clock(database.core) - MONTHS_AGO
    ) as billing:
        await billing.subscribe()
        return billing


async def test_due_work_is_shown_and_done_once(duro: Duro, database: Database) -> None:
    await subscribed_weeks_ago(database)
    (test, live) = (await duro.json("billing", "status"))["items"]
    assert (test["mode"], test["renewalsDue"], live["renewalsDue"]) == ("test", 1, 0)
    assert 8 * 86400 < test["renewalsLateBySeconds"] < 11 * 86400
    assert "Renewals due" in (await duro("billing", "status", "--mode", "test")).stdout

    assert await apart(duro, "billing", "run", "--once") == {"settled": {"test": 1}}
    assert await apart(duro, "billing", "run", "--once") == {"settled": {}}
    (test,) = (await duro.json("billing", "status", "--mode", "test"))["items"]
    assert (test["renewalsDue"], test["inFlight"]) == (0, 0)


async def test_a_failing_subscription_is_held_shown_and_released(
    duro: Duro, database: Database, owner: asyncpg.Connection
) -> None:
    billing = await subscribed_weeks_ago(database)
    await owner.execute(POISON)
    assert await apart(duro, "billing", "run", "--once", "--mode", "test") == {"settled": {}}
    (test,) = (await duro.json("billing", "status", "--mode", "test"))["items"]
    (held,) = test["held"]
    (subscription,) = await database.data(Mode.TEST).fetch("SELECT id FROM subscriptions")
    assert held["id"] == format_id(SUBSCRIPTION, subscription["id"])
    assert "this one cannot be invoiced" in held["fault"]
    assert held["id"] in (await duro("billing", "status")).stdout

    await owner.execute("DROP FUNCTION sandbox.poison() CASCADE")
    assert await apart(duro, "billing", "run", "--once", "--mode", "test") == {"settled": {}}
    assert await duro.json("billing", "release", "--mode", "test") == {"released": 1}
    assert await apart(duro, "billing", "run", "--once", "--mode", "test") == {"settled": {"test": 1}}
    assert (await billing.subscription(subscription["id"])).cycles == 2


async def test_running_it_stays_until_a_signal_and_keeps_simulations_out(
    duro: Duro, database: Database
) -> None:
    await subscribed_weeks_ago(database)
    with duro.popen("billing", "run", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            assert running.stderr
            assert "Ctrl-C stops" in running.stderr.readline()
            refusal = (await duro.process("billing", "simulate", "--tenants", "1", "--days", "1")).refusal
            assert f"{RUNNING} is running" in refusal
            assert await database.core.fetchval("SELECT count(*) FROM tenants") == 1
            running.send_signal(signal.SIGTERM)
            assert running.wait(PATIENCE) == 0
            assert running.stdout
            assert running.stdout.read().startswith("Settled: ")
        finally:
            running.kill()


async def test_an_unanswered_charge_is_shown_and_settled_by_hand(duro: Duro, database: Database) -> None:
    def silent(_order: Order) -> Outcome:
        raise GatewayUnavailable

    async with tenant_billing(
        database, start=await billing_cases.clock(database.core) - MONTHS_AGO
    ) as billing:
        await billing.subscribe()
        billing.gateway.answers = silent
        await billing.after(days=35)
    (test,) = (await duro.json("billing", "status", "--mode", "test"))["items"]
    (waiting,) = test["unanswered"]
    assert waiting["id"] in (await duro("billing", "status")).stdout
    where = ("--tenant", waiting["tenant"], "--mode", "test")
    told = await duro.json("billing", "settle", waiting["id"], *where, "--failed", "expired_card")
    assert told == {"id": waiting["id"], "state": "failed"}
    assert "not in flight" in (await duro("billing", "settle", waiting["id"], *where, "--succeeded")).refusal
    (row,) = await database.data(Mode.TEST).fetch("SELECT status FROM subscriptions")
    assert row["status"] == "past_due"


async def test_a_run_keeps_out_of_a_simulation(duro: Duro, db_url: str, key: bytes) -> None:
    async with Database.open(db_url, key, name=SIMULATING):
        assert "duro billing simulate is running" in (await duro.process("billing", "run", "--once")).refusal


async def test_a_simulation_says_what_came_about(duro: Duro, database: Database) -> None:
    told = await apart(
        duro, "billing", "simulate", "--tenants", "2", "--days", "3", "--signups", "2", "--seed", "5"
    )
    events = sum([await database.data(mode).fetchval("SELECT count(*) FROM events") for mode in Mode])
    assert told["events"] == events == sum(told["eventsByType"].values()) > 10
    assert len(told["tenants"]) == 2
    again = await duro.process("billing", "simulate", "--tenants", "1", "--days", "1")
    assert again.status == 0
    assert "events in all" in again.stdout
    assert "1 merchant is set up" in again.stderr


@pytest.mark.drill
async def test_the_same_seed_tells_the_same_story(duro: Duro) -> None:
    arguments = ("billing", "simulate", "--tenants", "2", "--days", "4", "--signups", "1", "--seed", "11")
    one, other = [await apart(duro, *arguments) for _ in range(2)]
    assert one["customers"] == other["customers"] > 0
    assert one["eventsByType"]["subscription_created"] == other["eventsByType"]["subscription_created"]


async def test_ctrl_c_ends_a_simulation_in_order(duro: Duro, database: Database) -> None:
    arguments = ("billing", "simulate", "--tenants", "1", "--days", "30", "--speed", "86400", "--json")
    with duro.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            while not await database.core.fetchval("SELECT count(*) FROM tenants"):
                assert running.poll() is None
            running.send_signal(signal.SIGINT)
            assert running.wait(PATIENCE) == 0
            assert running.stdout
            assert '"events":' in running.stdout.read()
        finally:
            running.kill()
    for mode in Mode:
        assert await database.data(mode).fetchval(
            "SELECT count(*) = 0 FROM payment_attempts WHERE state = 'in_flight'"
        )


async def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    for arguments in (
        ("simulate", "--tenants", "0"),
        ("simulate", "--days", "-1"),
        ("simulate", "--days", "4000"),
        ("simulate", "--speed", "fast"),
        ("simulate", "--signups", "nan"),
        ("settle", format_id(PAYMENT, new_id()), "--tenant", format_id(TENANT, new_id()), "--mode", "test"),
        ("run", "--mode", "sandbox"),
        ("release",),
        ("charge",),
    ):
        outcome = await Duro({})("billing", *arguments)
        assert outcome.status == 2, arguments
        assert outcome.refusal


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    lines: list[str] = []
    show = Lines(lines.append, Plot(2, 10, 0, 1, 1)).show
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    show(Progress(1, moment, 0, 0, 0))
    show(Progress(2, moment, 0, 0, 0))
    for events in range(0, 20_000, 1000):
        show(Progress(2, moment, events / 20_000, events, 3))
    assert [line.split(",")[0] for line in lines] == [
        "2 merchants are set up",
        "2026-01-01",
        "2026-01-01",
        "2026-01-01",
    ]
