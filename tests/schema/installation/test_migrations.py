"""Migrations are concurrent-safe, idempotent and atomic per file, and refuse unknown databases."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import Unavailable
from schema.installation import migrate
from schema.installation.preconditions import check_version
from tests.support.database_waits import until
from tests.support.servers.connections import connections
from tests.support.servers.databases import OWNER, Cluster

REPOSITORY = Path(__file__).resolve().parents[3]
ALL = [(m.schema, m.name) for m in migrate.migrations()]

# Says "ready", waits for a line, migrates, and says how many files it applied.
MIGRATOR = """
import asyncio, sys
from schema.connections.database import connect_as_owner
from schema.installation.migrate import migrate

async def main(url, key):
    owner = await connect_as_owner(url)
    print("ready", flush=True)
    sys.stdin.readline()
    print((await migrate(owner, bytes.fromhex(key))).files, flush=True)
    await owner.close()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def migrator(url: str, key: bytes) -> AsyncIterator[Process]:
    """A process that migrates when it reads a line from its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MIGRATOR, url, key.hex()), stdin=PIPE, stdout=PIPE, cwd=REPOSITORY
    )
    assert process.stdin
    assert process.stdout
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def empty(cluster: Cluster) -> AsyncIterator[str]:
    """The name of a database that has never been migrated."""
    async with cluster.empty_database() as name:
        yield name


@pytest.fixture
async def owner_of_empty(cluster: Cluster, empty: str) -> AsyncIterator[asyncpg.Connection]:
    async with connections(cluster, empty) as connect:
        yield await connect(OWNER)


async def book(owner: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await owner.fetch("SELECT schema, name FROM core.schema_migrations ORDER BY applied_at")
    return [(row["schema"], row["name"]) for row in rows]


async def test_an_ordinary_owner_applies_all_migrations_once(
    owner_of_empty: asyncpg.Connection, key: bytes
) -> None:
    assert not await owner_of_empty.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    lines: list[str] = []
    assert (await migrate.migrate(owner_of_empty, key, lines.append)).files == len(ALL)
    assert lines == [f"{schema}: {name}" for schema, name in ALL]
    assert await book(owner_of_empty) == ALL
    assert await migrate.migrate(owner_of_empty, key, lines.append) == migrate.MigrationResult(0, [])
    assert len(lines) == len(ALL)


async def test_concurrent_processes_apply_each_file_once(
    cluster: Cluster, empty: str, owner_of_empty: asyncpg.Connection
) -> None:
    url = cluster.url(empty)
    async with migrator(url, cluster.key) as one, migrator(url, cluster.key) as other:
        results = await asyncio.gather(*(process.communicate(b"go\n") for process in (one, other)))
        assert (one.returncode, other.returncode) == (0, 0)
    assert sorted(int(output) for output, _ in results) == [0, len(ALL)]
    assert await book(owner_of_empty) == ALL


async def test_two_databases_of_a_cluster_migrate_concurrently(cluster: Cluster) -> None:
    """Both create the shared roles and set their passwords."""
    async with cluster.empty_database() as first, cluster.empty_database() as second:
        async with (
            migrator(cluster.url(first), cluster.key) as one,
            migrator(cluster.url(second), cluster.key) as other,
        ):
            results = await asyncio.gather(*(process.communicate(b"go\n") for process in (one, other)))
        assert [int(output) for output, _ in results] == [len(ALL), len(ALL)]


async def test_a_killed_process_leaves_complete_files(
    cluster: Cluster, empty: str, owner_of_empty: asyncpg.Connection
) -> None:
    """It is killed after the file's last statement, before the commit; the next run continues from there."""
    stop_at = ALL.index(("sandbox", "0006_sequencer.sql"))
    await owner_of_empty.execute(
        """
        CREATE SCHEMA core;
        CREATE TABLE core.schema_migrations (schema text, name text, sha256 text, applied_at timestamptz DEFAULT now());
        CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END $$;
        CREATE TRIGGER wait BEFORE INSERT ON core.schema_migrations FOR EACH ROW
            WHEN (NEW.schema = 'sandbox' AND NEW.name LIKE '0006%') EXECUTE FUNCTION public.wait();
        """
    )
    await owner_of_empty.execute("SELECT pg_advisory_lock(4711)")
    async with migrator(cluster.url(empty), cluster.key) as process:
        assert process.stdin
        process.stdin.write(b"go\n")
        await until(owner_of_empty, "SELECT EXISTS (SELECT FROM pg_locks WHERE objid = 4711 AND NOT granted)")
        process.kill()
    await until(owner_of_empty, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE objid = 4711 AND NOT granted)")

    assert await book(owner_of_empty) == ALL[:stop_at]
    assert await owner_of_empty.fetchval("SELECT to_regclass('sandbox.event_log') IS NOT NULL")
    assert await owner_of_empty.fetchval("SELECT to_regproc('sandbox.sequence_events') IS NULL")
    assert (await migrate.migrate(owner_of_empty, cluster.key)).files == len(ALL) - stop_at
    assert await book(owner_of_empty) == ALL


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ("UPDATE core.schema_migrations SET sha256 = 'x' WHERE name = '0004_events.sql'", "different text"),
        ("INSERT INTO core.schema_migrations VALUES ('live', '9999_later.sql', 'x')", "newer version"),
        ("UPDATE core.schema_migrations SET name = 'x' || name", "newer version"),
    ],
)
async def test_a_database_with_another_history_is_refused(
    owner: asyncpg.Connection, db_url: str, key: bytes, history: str, sentence: str
) -> None:
    await owner.execute(history)
    with pytest.raises(Unavailable, match=sentence):
        await migrate.migrate(owner, key)
    with pytest.raises(Unavailable, match=sentence):
        async with Database.open(db_url, key):
            pass


async def test_a_database_that_lacks_a_migration_is_not_opened(
    owner: asyncpg.Connection, db_url: str, key: bytes
) -> None:
    await owner.execute("DELETE FROM core.schema_migrations WHERE (schema, name) = ($1, $2)", *ALL[-1])
    with pytest.raises(Unavailable, match=r"lacks 1 migration\(s\) of this version: run duro migrate"):
        async with Database.open(db_url, key):
            pass


async def test_another_secret_key_changes_no_password(
    owner: asyncpg.Connection, db_url: str, key: bytes
) -> None:
    with pytest.raises(Unavailable, match="another secret key"):
        await migrate.migrate(owner, bytes(32))
    async with Database.open(db_url, key) as database:
        assert await database.core.fetchval("SELECT true")


async def test_roles_of_another_installation_are_refused_without_changes(
    owner_of_empty: asyncpg.Connection, owner: asyncpg.Connection, key: bytes
) -> None:
    """Roles belong to the cluster: with this key they could no longer open the other database."""
    with pytest.raises(Unavailable, match="another secret key"):
        await migrate.migrate(owner_of_empty, bytes(32))
    assert (await migrate.migrate(owner_of_empty, key)).files == len(ALL)


async def test_an_owner_without_createrole_is_refused(
    cluster: Cluster, empty: str, owner_of_empty: asyncpg.Connection
) -> None:
    async with connections(cluster, empty) as connect:
        superuser = await connect("postgres")
        await superuser.execute("CREATE ROLE humble")
        await superuser.execute(f"GRANT CREATE ON DATABASE {empty} TO humble; SET ROLE humble")
        with pytest.raises(
            Unavailable, match=r'may not manage roles: run as a superuser: ALTER ROLE "humble" CREATEROLE;'
        ):
            await migrate.migrate(superuser, cluster.key)
        await superuser.execute("RESET ROLE; DROP OWNED BY humble; DROP ROLE humble")


async def test_this_postgres_is_new_enough(owner: asyncpg.Connection) -> None:
    check_version(owner)


@pytest.mark.parametrize("major", [15, 9])
def test_an_older_postgres_is_refused(major: int) -> None:
    old = SimpleNamespace(get_server_version=lambda: SimpleNamespace(major=major))
    with pytest.raises(Unavailable, match=f"PostgreSQL {major}; duro needs PostgreSQL 16 or newer"):
        check_version(cast(Any, old))
