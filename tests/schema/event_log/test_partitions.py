"""Each month has its partition long before it begins, and creating one delays no producer."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import Unavailable
from schema.event_log import partitions
from schema.installation.migrate import migrate
from schema.modes import Mode
from tests.support.events import in_log, record, sequence_all
from tests.support.servers.connections import SANDBOX, Connect, connections
from tests.support.servers.databases import OWNER, Cluster

TABLES = {"events", "event_log", "webhook_deliveries", "webhook_attempts", "activity_g1"}


async def bounds(connection: asyncpg.Connection) -> dict[str, list[tuple[datetime, datetime]]]:
    rows = await connection.fetch(
        r"""
        SELECT inhparent::regclass::text AS parent, m[1]::timestamptz AS first, m[2]::timestamptz AS "end"
          FROM pg_inherits
          JOIN pg_class c ON c.oid = inhrelid AND c.relkind = 'r',
               regexp_match(pg_get_expr(relpartbound, c.oid), $$FROM \('(.*)'\) TO \('(.*)'\)$$) AS m
         WHERE c.relnamespace = 'sandbox'::regnamespace AND m IS NOT NULL  -- a generation is no month
         ORDER BY 2
        """
    )
    return {
        parent: [(row["first"], row["end"]) for row in rows if row["parent"] == parent]
        for parent in {row["parent"] for row in rows}
    }


async def test_a_new_database_has_partitions_for_a_year(cluster: Cluster) -> None:
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        owner = await connect(OWNER)
        await migrate(owner, cluster.key)
        by_table = await bounds(owner)
        assert set(by_table) == TABLES
        assert await partitions.partitions_ahead(await connect(SANDBOX)) == 12
        now = datetime.now(UTC)
        for months in by_table.values():
            assert months[0][0] <= now - timedelta(days=1)
            assert months[-1][1] > now + timedelta(days=365)
            assert all(end == start for (_, end), (start, _) in pairwise(months))


UPDATED = {"autovacuum_vacuum_scale_factor=0.02", "autovacuum_vacuum_threshold=10000"}
APPENDED = {
    "autovacuum_vacuum_insert_scale_factor=0.05",
    "autovacuum_vacuum_insert_threshold=10000",
    "autovacuum_freeze_min_age=0",
}


async def test_each_partition_is_vacuumed_as_its_table_needs(
    database: Database, superuser: asyncpg.Connection
) -> None:
    """Partitions made by migrations, housekeeping, past months and rebuilds alike."""
    data = database.data(Mode.TEST)
    assert await partitions.ensure_partitions(data) > 0
    assert await partitions.ensure_past_partitions(data, datetime.now(UTC) - timedelta(days=100)) > 0
    await data.execute("SELECT begin_rebuild('activity')")
    rows = await superuser.fetch(
        "SELECT inhparent::regclass::text AS parent, c.reloptions FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        r" WHERE c.relnamespace = 'sandbox'::regnamespace AND c.relkind = 'r' AND c.relname ~ '\d{4}_\d{2}$'"
    )
    assert {row["parent"] for row in rows} == TABLES | {"activity_g2"}
    for row in rows:
        assert set(row["reloptions"]) == (UPDATED if row["parent"] == "webhook_deliveries" else APPENDED)


async def test_only_missing_partitions_are_created(database: Database) -> None:
    data = database.data(Mode.TEST)
    assert await partitions.partitions_ahead(data) == 1
    assert await partitions.ensure_partitions(data) == 11 * len(TABLES)
    assert await partitions.partitions_ahead(data) == 12
    assert await partitions.ensure_partitions(data) == 0


@pytest.mark.parametrize("timezone", ["Asia/Tokyo", "America/Los_Angeles"])
async def test_months_are_utc_in_any_session_time_zone(connect: Connect, timezone: str) -> None:
    connection = await connect(SANDBOX)
    await connection.execute(f"SET timezone = '{timezone}'")
    await partitions.ensure_partitions(connection)
    for months in (await bounds(connection)).values():
        assert all(
            moment == moment.astimezone(UTC).replace(day=1, hour=0) for span in months for moment in span
        )


async def test_two_sessions_create_partitions_in_turn(
    connect: Connect, superuser: asyncpg.Connection
) -> None:
    first, second = await connect(), await connect()
    async with first.transaction():
        assert await partitions.ensure_partitions(first) > 0
        await second.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await partitions.ensure_partitions(second)
    assert await partitions.ensure_partitions(second) == 0


async def test_creating_a_partition_and_producers_do_not_wait(connect: Connect, tenant: UUID) -> None:
    """CREATE TABLE … PARTITION OF would wait for the open producer, and all other producers behind it."""
    open_producer, maker, producer = await connect(), await connect(), await connect()
    for connection in (maker, producer):
        await connection.execute("SET lock_timeout = '1s'")
    async with open_producer.transaction():
        first = await record(open_producer, tenant)
        async with maker.transaction():
            assert await partitions.ensure_partitions(maker) > 0
            second = await record(producer, tenant)
            await sequence_all(producer)
    await sequence_all(producer)
    assert await in_log(producer) == [second, first]


async def test_an_insert_without_a_partition_says_what_to_do(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID
) -> None:
    await owner.execute("ALTER TABLE events ALTER created_at SET DEFAULT now() + interval '3 months'")
    with pytest.raises(Unavailable, match="no partition for this month: start a worker, or run duro migrate"):
        await record(await connect(SANDBOX), tenant)


async def test_months_far_apart_share_one_log(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID
) -> None:
    producer = await connect()
    await partitions.ensure_partitions(producer)
    events = [
        await owner.fetchval(
            "INSERT INTO events (tenant_id, type, data, created_at)"
            " VALUES ($1, 'webhook_test', '{}', now() + make_interval(months => $2)) RETURNING id",
            tenant,
            months,
        )
        for months in (9, 0, 5, 1)
    ]
    await sequence_all(producer, limit=1)
    assert await in_log(producer) == events
