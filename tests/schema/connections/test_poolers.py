"""duro works behind a pooler with one session per client, and refuses other poolers with what to do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from schema.connections import database as database_module
from schema.connections.database import Database, connect_as_owner, connect_to_core
from schema.connections.session_settings import VERSION_DEPENDENT
from schema.errors import Unavailable
from schema.event_log import events
from schema.installation.migrate import migrate
from schema.installation.roles import CORE_ROLE
from schema.modes import Mode
from schema.secret_box import derive_role_password
from tests.support.servers.databases import Cluster
from tests.support.servers.pgbouncer import PgBouncer, needs_pgbouncer, pgbouncer

pytestmark = [needs_pgbouncer, pytest.mark.drill]

SHARED = (
    "is behind a pooler in transaction or statement mode, .*: point DURO_DATABASE_URL to PostgreSQL itself"
)
DROPPED = ", ".join(name.lower() for name in database_module._pinned("core"))
TRACKED = {"datestyle", "timezone", "standard_conforming_strings"}  # PgBouncer keeps them for each client


@pytest.fixture
async def pooler(cluster: Cluster) -> AsyncIterator[PgBouncer]:
    async with pgbouncer(cluster, "session") as pooler:
        yield pooler


async def in_force(connection: asyncpg.Connection, pinned: dict[str, str]) -> bool:
    """Whether the settings already have these values."""
    unknown = [
        name
        for name in VERSION_DEPENDENT
        if await connection.fetchval("SELECT current_setting($1, true)", name) is None
    ]
    settings = {name: value for name, value in pinned.items() if name not in unknown}
    before = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in settings}
    for name, value in settings.items():
        await connection.execute("SELECT set_config($1, $2, false)", name, value)
    return before == {
        name: await connection.fetchval("SELECT current_setting($1)", name) for name in settings
    }


async def test_session_mode_supports_migration_and_use(cluster: Cluster, pooler: PgBouncer) -> None:
    async with cluster.empty_database() as name:
        url = pooler.url(cluster.url(name))
        owner = await connect_as_owner(url)
        await migrate(owner, cluster.key)
        await owner.close()
        async with Database.open(url, cluster.key) as database:
            assert await database.data(Mode.TEST).fetchval("SELECT count(*) FROM events") == 0
            assert await database.core.fetchval("SHOW search_path") == "core"


@pytest.mark.parametrize("ignored", ["", DROPPED], ids=["none", "all"])
async def test_settings_are_in_effect_even_if_the_pooler_ignores_them(
    cluster: Cluster, db_url: str, ignored: str
) -> None:
    """`ignore_startup_parameters` makes PgBouncer drop them without a word."""
    settings = {"ignore_startup_parameters": ignored} if ignored else {}
    async with pgbouncer(cluster, "session", **settings) as pooler:
        async with Database.open(pooler.url(db_url), cluster.key) as database:
            for schema, pool in (("core", database.core), ("live", database.data(Mode.LIVE))):
                async with pool.acquire() as connection:
                    assert await in_force(connection, database_module._pinned(schema))
            guard = await connect_to_core(database, "guard", silent_for="7s")
            assert await guard.fetchval("SHOW idle_session_timeout") == "7s"
            await guard.close()
        owner = await connect_as_owner(pooler.url(db_url))
        assert await owner.fetchval("SHOW search_path") == "pg_catalog, pg_temp"
        await owner.close()


async def test_each_client_in_session_mode_has_its_own_settings(
    cluster: Cluster, pooler: PgBouncer, db_url: str
) -> None:
    """The pooler reuses a session of another client."""
    for silent_for in ("3s", "5s", "0"):
        async with Database.open(pooler.url(db_url), cluster.key) as database:
            guard = await connect_to_core(database, "guard", silent_for=silent_for)
            assert await guard.fetchval("SHOW idle_session_timeout") == silent_for
            await guard.close()


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("transaction", {}),
        ("transaction", {"server_round_robin": 1}),
        ("transaction", {"default_pool_size": 1}),
        ("transaction", {"ignore_startup_parameters": DROPPED}),
        ("statement", {}),
        ("statement", {"ignore_startup_parameters": DROPPED}),
    ],
    ids=["", "round robin", "one session", "settings ignored", "statement", "statement, settings ignored"],
)
async def test_shared_sessions_are_refused_and_unchanged(
    cluster: Cluster, db_url: str, mode: str, settings: dict[str, object]
) -> None:
    async with pgbouncer(cluster, mode, **settings) as pooler:
        url = pooler.url(db_url)
        with pytest.raises(Unavailable, match=SHARED):
            await connect_as_owner(url)
        with pytest.raises(Unavailable, match=SHARED) as caught:
            async with Database.open(url, cluster.key):
                pass
        assert caught.value.__cause__ is None
        core = {"user": CORE_ROLE, "password": derive_role_password(cluster.key, CORE_ROLE)}
        for login in ({}, core):
            another = await asyncpg.connect(url, **login)
            changed = await another.fetch(
                "SELECT lower(name) AS name FROM pg_settings WHERE source = 'session'"
            )
            assert not (set(DROPPED.split(", ")) - TRACKED) & {row["name"] for row in changed}
            await another.close()


@asynccontextmanager
async def crowd(url: str, count: int) -> AsyncIterator[None]:
    """Clients of the same login that run short transactions continuously."""

    async def busy(connection: asyncpg.Connection) -> None:
        while True:
            async with connection.transaction():
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    connections = [await asyncpg.connect(url) for _ in range(count)]
    tasks = [asyncio.create_task(busy(connection)) for connection in connections]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for connection in connections:
            connection.terminate()


async def test_transaction_mode_is_detected_among_many_clients(cluster: Cluster, db_url: str) -> None:
    """Other clients take sessions at the same time, so that none stays with this client by chance."""
    async with pgbouncer(cluster, "transaction") as pooler:
        url = pooler.url(db_url)
        async with crowd(url, 6):
            for _ in range(30):
                with pytest.raises(Unavailable, match=SHARED):
                    await connect_as_owner(url)


async def test_a_pooler_with_too_few_sessions_is_reported(cluster: Cluster, db_url: str) -> None:
    async with pgbouncer(cluster, "session", default_pool_size=1) as pooler:
        with pytest.raises(Unavailable, match="provided no second session within 2 s: raise its pool size"):
            await connect_as_owner(f"{pooler.url(db_url)}&connect_timeout=2")


async def test_a_role_unknown_to_the_pooler_is_reported(cluster: Cluster, db_url: str) -> None:
    query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolname NOT LIKE 'duro\\_core'"
    async with pgbouncer(cluster, "session", auth_query=query) as pooler:
        with pytest.raises(Unavailable, match="add the role to your pooler") as caught:
            async with Database.open(pooler.url(db_url), cluster.key):
                pass
        assert derive_role_password(cluster.key, "duro_core") not in str(caught.value)


async def test_a_database_missing_behind_the_pooler_is_reported(
    cluster: Cluster,
) -> None:
    async with pgbouncer(cluster, "session", database="duro") as pooler:
        with pytest.raises(Unavailable, match="absent does not exist: create it"):
            await connect_as_owner(pooler.url(cluster.superuser_url("absent")))


async def test_a_wrong_password_is_reported_through_the_pooler(pooler: PgBouncer, db_url: str) -> None:
    parts = urlsplit(db_url)
    url = parts._replace(netloc=parts.netloc.replace(parts.password or "", "hunter2")).geturl()
    with pytest.raises(Unavailable, match=r"refuses the login .*: correct the user and password") as caught:
        await connect_as_owner(pooler.url(url))
    assert "hunter2" not in str(caught.value)


async def test_a_full_pooler_is_reported(cluster: Cluster, db_url: str) -> None:
    async with pgbouncer(cluster, "session", max_client_conn=1) as pooler:
        owner = await connect_as_owner(db_url)
        await owner.close()
        holder = await asyncpg.connect(pooler.url(db_url))
        with pytest.raises(Unavailable, match="has no connection left"):
            await connect_as_owner(pooler.url(db_url))
        holder.terminate()


async def test_events_are_recorded_and_read_through_session_mode(
    cluster: Cluster, pooler: PgBouncer, db_url: str, new_tenant: Callable[[], Awaitable[UUID]]
) -> None:
    tenant = await new_tenant()
    async with Database.open(pooler.url(db_url), cluster.key) as database:
        async with database.data(Mode.TEST).acquire() as tx, tx.transaction():
            event = await events.record(tx, tenant, "webhook_test", {"endpointId": "we_x"})
        assert await events.tenant_of(database.data(Mode.TEST), event) == tenant
