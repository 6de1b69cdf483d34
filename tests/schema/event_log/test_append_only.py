"""No role can change or remove recorded rows, in any partition, empty or not."""

import re
from uuid import UUID

import asyncpg
import pytest

from tests.support.append_only import assert_unchangeable
from tests.support.database_catalog import relations
from tests.support.events import record, sequence_all
from tests.support.servers.connections import LIVE, SANDBOX, SUPERUSER, Connect
from tests.support.servers.databases import OWNER

APPEND_ONLY = ("events", "event_log", "webhook_attempts")


async def append_only_tables(owner: asyncpg.Connection) -> list[str]:
    """The three tables in both modes, with all their partitions."""
    return [
        f"{table['schema']}.{table['name']}"
        for table in await relations(owner, "sandbox", "live")
        if table["kind"] in {"r", "p"} and re.sub(r"_\d{4}_\d{2}$", "", table["name"]) in APPEND_ONLY
    ]


@pytest.mark.parametrize("role", ["duro_core", SANDBOX, LIVE, OWNER, SUPERUSER])
async def test_update_delete_and_truncate_fail_for_every_role(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID, role: str
) -> None:
    producer = await connect(SANDBOX)
    event = await record(producer, tenant)
    await sequence_all(producer)
    tables = await append_only_tables(owner)
    assert len(tables) == 2 * len(APPEND_ONLY) * 3  # each with the partitions of two months
    connection = await connect(role)
    for table in tables:
        await assert_unchangeable(connection, table)
    assert (
        await owner.fetchval("SELECT count(*) FROM events e JOIN event_log l ON l.event_id = $1", event) == 1
    )


async def test_replication_mode_does_not_disable_the_trigger(
    superuser: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    await superuser.execute("SET session_replication_role = replica")
    for table in await append_only_tables(owner):
        await assert_unchangeable(superuser, table)


async def test_an_upsert_is_an_update(owner: asyncpg.Connection, tenant: UUID) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(
            "INSERT INTO events (tenant_id, type, data) VALUES ($1, 'webhook_test', '{}')"
            " ON CONFLICT (id, created_at) DO UPDATE SET data = excluded.data",
            tenant,
        )


@pytest.mark.parametrize("table", ["events", "event_log", "sequencer"])
async def test_a_data_role_appends_only_through_functions(connect: Connect, table: str) -> None:
    connection = await connect(SANDBOX)
    for target in (table, *await partitions_of(connection, table)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"INSERT INTO {target} DEFAULT VALUES")


async def partitions_of(connection: asyncpg.Connection, table: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", table
    )
    return [row["name"] for row in rows]


async def test_a_partition_made_later_is_protected_too(
    connect: Connect, superuser: asyncpg.Connection
) -> None:
    before = set(await partitions_of(superuser, "events"))
    await (await connect(SANDBOX)).execute("SELECT ensure_partitions(13)")
    later = set(await partitions_of(superuser, "events")) - before
    assert len(later) >= 12
    await superuser.execute("SET session_replication_role = replica")
    for partition in later:
        await assert_unchangeable(superuser, partition)
