"""`duro retention`."""

import asyncio
import signal
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database, Pool
from schema.ids import DELIVERY, format_id
from schema.modes import Mode
from tests.service.cli.duro_command import Duro
from tests.support.database_waits import until
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.retention_history import OLD, attached, finished, past
from tests.support.servers.connections import Connect
from tests.support.servers.databases import OWNER

AGES = ("--events", "300d", "--deliveries", "300d", "--attempts", "90d", "--activity", "300d")


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
async def old(data: Pool, tenant: UUID) -> list[UUID]:
    events = await past(data, tenant, OLD)
    await finished(data)
    return events


async def test_the_plan_matches_the_run(duro: Duro, owner: asyncpg.Connection, old: list[UUID]) -> None:
    for asked in (("plan",), ("run", "--dry-run")):
        plan = await duro.json("retention", *asked, *AGES, "--mode", "test")
        assert (plan["dryRun"], plan["bytesFreed"]) == (True, 0)
        first = plan["months"][0]
        assert (first["mode"], first["month"], first["what"]) == ("test", str(OLD), "events")
        assert (first["deletion"], first["kept"]) == ("drop", [])
        assert first["bytes"] > 0
        assert f"events_{OLD.suffix}" in first["tables"]
        assert await attached(owner, OLD)
    done = await duro.json("retention", "run", *AGES)
    assert (done["dryRun"], done["months"]) == (False, plan["months"])
    assert done["bytesFreed"] == sum(month["bytes"] for month in plan["months"])
    assert not await attached(owner, OLD)
    assert (await duro.json("retention", "run", *AGES))["months"] == []


async def test_the_output_lists_what_was_deleted_and_kept_and_why(
    duro: Duro, data: Pool, tenant: UUID, old: list[UUID]
) -> None:
    plan = await duro("retention", "plan", *AGES)
    assert f"test  {OLD}  events" in plan.stdout
    assert "would drop" in plan.stdout
    assert "would be freed: duro retention run does it." in plan.stdout
    await data.execute("INSERT INTO cursors (consumer, pos) VALUES ('fanout', 2)")
    kept = await duro("retention", "run", *AGES)
    assert kept.status == 0
    assert "kept: consumer fanout is 1 event behind" in kept.stdout
    await finished(data)
    done = await duro("retention", "run", *AGES)
    assert "dropped" in done.stdout
    assert " freed." in done.stdout
    assert f"test {OLD}: dropping events_{OLD.suffix}" in done.stderr
    assert "No month is old enough." in (await duro("retention", "run", *AGES)).stdout


async def test_a_stopped_run_reports_what_it_has_done(
    duro: Duro, database: Database, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """There is no undoing it. Of the other mode an earlier run noted a month that has other rows by now."""
    await past(database.data(Mode.LIVE), tenant, OLD)
    await owner.execute(
        "INSERT INTO live.retired_months (month, last_pos, events, tables, oids)"
        " VALUES ($1, 0, 99, ARRAY[$2::text], ARRAY[('live.' || $2::text)::regclass::oid])",
        OLD.first,
        f"events_{OLD.suffix}",
    )
    stopped = await duro("retention", "run", *AGES, "--json")
    assert stopped.status == 1
    assert "has 3 rows but had 99 when it was sealed" in stopped.stderr
    (went, *_) = stopped.json["months"]
    assert (went["mode"], went["month"], went["kept"]) == ("test", str(OLD), [])
    assert stopped.json["bytesFreed"] > 0
    assert not await attached(owner, OLD)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Nothing to delete"),
        (("--events", "400d"), "Deliveries cannot be kept longer than events"),
        (("--events", "400d", "--deliveries", "500d"), "give --deliveries 400d or less"),
        (("--attempts", "1h"), "'1h' is too short; the minimum is 1d"),
        (("--attempts", "soon"), "'soon' is not a duration"),
    ],
)
async def test_invalid_options_are_refused_before_any_change(
    duro: Duro, arguments: tuple[str, ...], sentence: str
) -> None:
    outcome = await duro("retention", "run", *arguments)
    assert sentence in outcome.refusal
    assert outcome.status == 2


async def test_a_second_run_says_that_one_is_in_progress(duro: Duro, owner: asyncpg.Connection) -> None:
    from schema.retention.retention_run import exclusive_run

    async with exclusive_run(owner):
        assert "Another duro retention run is running" in (await duro("retention", "run", *AGES)).refusal
        assert (await duro("retention", "plan", *AGES)).status == 0


async def test_a_sealed_month_refuses_with_a_sentence(
    duro: Duro, database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    endpoint = await add_endpoint(database, tenant, "https://shop.example/hooks")
    await data.execute("UPDATE webhook_deliveries SET endpoint_id = $1", endpoint)
    await owner.execute(f"SELECT seal_partition('webhook_deliveries_{OLD.suffix}')")
    delivery = await data.fetchval("SELECT id FROM webhook_deliveries LIMIT 1")
    refusal = (await duro("delivery", "replay", format_id(DELIVERY, delivery))).refusal
    assert f"webhook_deliveries_{OLD.suffix} is being retired" in refusal


async def test_a_run_killed_while_detaching_is_finished_by_the_next(
    duro: Duro,
    connect: Connect,
    data: Pool,
    owner: asyncpg.Connection,
    tenant: UUID,
    old: list[UUID],
    tmp_path: Path,
) -> None:
    """A producer's open transaction blocks it there, and continues afterwards without an error."""
    left_open, watcher = await connect(), await connect(OWNER)
    async with left_open.transaction():
        first = await record(left_open, tenant)
        with (tmp_path / "log").open("w") as log, duro.popen("retention", "run", *AGES, stderr=log) as run:
            await until(watcher, "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
            run.send_signal(signal.SIGKILL)
            await asyncio.to_thread(run.wait)
        second = await record(left_open, tenant)
    await until(
        watcher,
        "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'retention_lock'::regclass)"
        "   AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%' AND state = 'active')",
    )
    assert (await duro("retention", "run", *AGES)).status == 0
    assert not await attached(owner, OLD)
    await finished(data)
    assert await data.fetchval("SELECT array_agg(event_id ORDER BY pos) FROM event_log") == [first, second]
