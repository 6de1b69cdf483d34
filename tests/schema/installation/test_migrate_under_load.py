"""Migrations of a later version are applied while producers and workers work; and wherever a run ends, the
next one finishes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import Unavailable
from schema.installation import lock_retries, migrate
from schema.modes import Mode
from tests.support.arrivals import Arrivals
from tests.support.database_waits import until
from tests.support.engine import add_endpoint, engine, running
from tests.support.events import event_names, record
from tests.support.further_migrations import further_migrations
from tests.support.servers.connections import Connect
from tests.support.servers.databases import OWNER
from tests.support.servers.receiver import receiving

pytestmark = pytest.mark.drill

INDEXES = ("webhook_deliveries_by_note", "activity_by_day", "customers_by_day")
LEAVES_WITHOUT = """
SELECT t.relid::regclass::text
  FROM pg_partition_tree($1::regclass) t
 WHERE t.isleaf AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_partition_tree($2::regclass) p ON p.relid = i.indexrelid
                                 WHERE i.indrelid = t.relid)
"""
BUILDING = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%')"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> int:
    """Adds the further migrations to this version. Returns their number."""
    present, further = list(migrate.migrations()), further_migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: [*present, *further])
    return len(further)


def waits_for(file: str) -> Callable[[Sequence[str]], bool]:
    return lambda lines: any(file in line and "waiting for a lock" in line for line in lines)


async def check_migrated(owner: asyncpg.Connection) -> None:
    assert not await owner.fetch("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid")
    assert not await owner.fetch("SELECT conname FROM pg_constraint WHERE NOT convalidated")
    for mode in Mode:
        await owner.execute(f"SET search_path = {mode.schema}; SELECT ensure_partitions()")
        assert (
            await owner.fetchval(
                "SELECT count(*) FROM pg_index WHERE indexrelid::regclass::text = ANY($1)", INDEXES
            )
            == 3
        )
        for index in INDEXES[:2]:
            assert not await owner.fetch(LEAVES_WITHOUT, index[: index.index("_by_")], index)


async def test_producers_and_workers_continue_during_migrations(
    database: Database,
    connect: Connect,
    tenant: UUID,
    key: bytes,
    later: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long transaction blocks the first files; a lock request that waits would block all later statements."""
    monkeypatch.setattr(lock_retries, "LOCK_TIMEOUT_S", 0.3)
    owner, reader = await connect(OWNER), await connect(OWNER)
    sent: Arrivals[UUID] = Arrivals()
    lines: Arrivals[str] = Arrivals()
    waits: list[float] = []
    stop = asyncio.Event()

    async def produce() -> None:
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            since = clock()
            sent.add(await record(database.data(Mode.TEST), tenant))
            waits.append(clock() - since)

    async with receiving() as receiver, engine(database) as parts, running(*parts.everything()):
        await add_endpoint(database, tenant, receiver.url)
        producers = [asyncio.create_task(produce()) for _ in range(2)]
        await receiver.requests.count(10)
        await reader.execute("BEGIN; SELECT FROM webhook_deliveries LIMIT 0; SELECT FROM events LIMIT 0")
        migrating = asyncio.create_task(migrate.migrate(owner, key, lines.add))
        await lines.until(waits_for("9001"))
        await receiver.requests.count(len(receiver.requests) + 30)  # while the first file finds no moment
        await reader.execute("ROLLBACK; BEGIN; SELECT FROM events LIMIT 0")
        await lines.until(waits_for("9002"))
        await sent.count(len(sent) + 30)
        await reader.execute("ROLLBACK")
        assert (await migrating).files == later
        stop.set()
        await asyncio.gather(*producers)
        await receiver.requests.count(len(sent))
        assert receiver.event_ids() == dict.fromkeys(event_names(list(sent)), 1)
        assert await database.data(Mode.TEST).fetchval("SELECT count(*) FROM dead_events") == 0
    assert max(waits) < lock_retries.LOCK_TIMEOUT_S + 1
    assert await owner.fetchval("SELECT count(*) FROM sandbox.webhook_deliveries WHERE note = 'settled'") > 0
    await check_migrated(owner)


class Killed(Exception):
    """Simulates the end of the process."""


async def test_an_interrupted_migration_is_completed_by_the_next_run(
    owner: asyncpg.Connection, key: bytes, later: int
) -> None:
    runs, done = 0, None
    while done is None:
        lines: list[str] = []

        def progress(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            if len(lines) == 3:
                raise Killed

        with suppress(Killed):
            done = await migrate.migrate(owner, key, progress)
        runs += 1
    assert runs > later / 2
    assert await migrate.migrate(owner, key) == migrate.MigrationResult(0, [])
    await check_migrated(owner)


async def test_an_incomplete_index_is_rebuilt(connect: Connect, tenant: UUID, key: bytes, later: int) -> None:
    owner, killed, writer = await connect(OWNER), await connect(OWNER), await connect()
    await writer.execute("BEGIN; LOCK TABLE customers IN ROW EXCLUSIVE MODE")
    migrating = asyncio.create_task(migrate.migrate(killed, key))
    await until(owner, BUILDING)
    await owner.execute("SELECT pg_terminate_backend($1)", killed.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await migrating
    assert await owner.fetch("SELECT FROM pg_index WHERE NOT indisvalid")
    await writer.execute("ROLLBACK")
    lines: list[str] = []
    await migrate.migrate(owner, key, lines.append)
    assert "sandbox: dropping index customers_by_day, which was not completed" in lines
    await check_migrated(owner)


async def test_a_blocking_transaction_is_named_and_nothing_changes(
    connect: Connect, key: bytes, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_retries, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(lock_retries, "LOCK_WAIT_LIMIT_S", 1.5)
    owner, reader = await connect(OWNER), await connect(OWNER)
    await reader.execute("BEGIN; SELECT FROM webhook_deliveries LIMIT 0")
    pid = reader.get_server_pid()
    with pytest.raises(Unavailable, match=rf"9001_add_a_column.sql got no lock .*process {pid} has had"):
        await migrate.migrate(owner, key)
    assert await owner.fetchval("SELECT count(*) FROM core.schema_migrations WHERE name LIKE '9%'") == 0
    await reader.execute("ROLLBACK")
    assert (await migrate.migrate(owner, key)).files == later
