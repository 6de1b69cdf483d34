"""Limits of an analyst: only views, a few sessions, and statements that end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from schema.connections.database import Database
from schema.installation import migrate
from schema.installation.roles import ANALYST_ROLES, analyst_of, ensure_roles, set_analyst_password
from schema.modes import Mode
from schema.queries import load
from service.worker.analyst_watch import AnalystWatch
from tests.support.database_waits import until, wait_until_blocked
from tests.support.servers.connections import Connect
from tests.support.servers.databases import OWNER, Cluster

LogIn = Callable[..., Awaitable[asyncpg.Connection]]


@pytest.fixture
async def log_in(cluster: Cluster, db_name: str, owner: asyncpg.Connection) -> AsyncIterator[LogIn]:
    """As a mode's analyst, whose limits are as they were before at the end: roles are the cluster's."""
    opened = []

    async def connect(mode: Mode = Mode.LIVE) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            cluster.url(db_name), user=analyst_of(mode), password="open sesame", command_timeout=20
        )
        opened.append(connection)
        return connection

    for mode in Mode:
        await set_analyst_password(owner, mode, "open sesame")
    yield connect
    for connection in opened:
        connection.terminate()
    await asyncio.sleep(0)
    for mode in Mode:
        await set_analyst_password(owner, mode, None)


@pytest.fixture
async def brief(owner: asyncpg.Connection) -> AsyncIterator[None]:
    """A limit short enough for a test."""
    await owner.execute("ALTER ROLE duro_live_analyst SET statement_timeout = '100ms'")
    yield
    await owner.execute("ALTER ROLE duro_live_analyst SET statement_timeout = '30s'")


@pytest.mark.parametrize("mode", Mode)
async def test_an_analyst_reads_only_the_modes_views(log_in: LogIn, mode: Mode) -> None:
    analyst = await log_in(mode)
    assert await analyst.fetchval("SHOW search_path") == mode.schema
    assert await analyst.fetch("SELECT * FROM daily_revenue") == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await analyst.fetch("SELECT * FROM events")
    other = next(each for each in Mode if each is not mode)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await analyst.fetch(f"SELECT * FROM {other.schema}.daily_revenue")
    with pytest.raises(asyncpg.PostgresError):
        await analyst.execute("CREATE TABLE mine (n int)")


async def test_a_statement_that_takes_too_long_is_stopped(log_in: LogIn, brief: None) -> None:
    analyst = await log_in()
    with pytest.raises(asyncpg.QueryCanceledError):
        await analyst.fetch("SELECT count(*) FROM generate_series(1, 1000000000)")
    assert await analyst.fetchval("SELECT 1") == 1


async def test_a_session_that_lifts_its_limit_is_ended(
    log_in: LogIn, brief: None, database: Database
) -> None:
    """A worker ends a session that changed statement_timeout, and the log says why."""
    watch = AnalystWatch(database, every_s=0.1)
    stop = asyncio.Event()
    watching = asyncio.create_task(watch.run(stop))
    analyst, idle = await log_in(), await log_in()
    await analyst.execute("SET statement_timeout = 0")
    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
        await analyst.fetch("SELECT pg_sleep(60)")
    stop.set()
    await watching
    assert watch.ended == 1
    assert await idle.fetchval("SELECT 1") == 1, "an idle session is not ended"


@pytest.mark.parametrize("limit", ["0x64", "1e2", "100.5 ms", "100us"])
async def test_no_setting_of_an_analyst_stops_the_watch(
    log_in: LogIn, brief: None, database: Database, limit: str
) -> None:
    """A role may alter its own settings. PostgreSQL accepts all of these, and most are no interval."""
    analyst = await log_in()
    await analyst.execute("SET default_transaction_read_only = off")
    await analyst.execute(f"ALTER ROLE CURRENT_USER SET statement_timeout = '{limit}'")
    watch = AnalystWatch(database)
    assert await watch.step() == 0
    await analyst.fetchval("SELECT pg_advisory_lock(1)")
    assert await watch.step() == 1


async def test_only_a_few_sessions_at_once(log_in: LogIn) -> None:
    for _ in range(5):
        await log_in()
    with pytest.raises(asyncpg.TooManyConnectionsError):
        await log_in()
    await log_in(Mode.TEST)


async def test_limits_set_by_an_operator_stay(owner: asyncpg.Connection, key: bytes) -> None:
    await owner.execute("ALTER ROLE duro_live_analyst CONNECTION LIMIT 9")
    try:
        await ensure_roles(owner, key)
        limits = await owner.fetch(
            "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname = ANY($1)", ANALYST_ROLES
        )
        assert dict(limits) == {"duro_live_analyst": 9, "duro_sandbox_analyst": 5}
    finally:
        await owner.execute("ALTER ROLE duro_live_analyst CONNECTION LIMIT 5")


async def test_an_operators_setting_leaves_the_other_limits(owner: asyncpg.Connection, key: bytes) -> None:
    await owner.execute(
        "ALTER ROLE duro_live_analyst RESET ALL; ALTER ROLE duro_live_analyst SET work_mem = '64MB'"
    )
    try:
        await ensure_roles(owner, key)
        (row,) = await owner.fetch("SELECT rolconfig FROM pg_roles WHERE rolname = 'duro_live_analyst'")
        assert set(row["rolconfig"]) == {
            "work_mem=64MB",
            "search_path=live",
            "statement_timeout=30s",
            "idle_in_transaction_session_timeout=60s",
            "default_transaction_read_only=on",
        }
    finally:
        await owner.execute("ALTER ROLE duro_live_analyst RESET work_mem")


async def test_an_analysts_advisory_lock_blocks_no_migration(
    log_in: LogIn, owner: asyncpg.Connection, key: bytes, database: Database
) -> None:
    analyst = await log_in()
    await analyst.fetchval("SELECT pg_advisory_lock($1)", migrate._LOCK_KEY)
    assert (await migrate.migrate(owner, key)).files == 0
    again = await log_in()
    await again.fetchval("SELECT pg_advisory_lock(1)")
    assert await AnalystWatch(database).step() == 1


async def test_an_analyst_cannot_log_in_without_a_password(
    cluster: Cluster, db_name: str, owner: asyncpg.Connection
) -> None:
    for mode in Mode:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(cluster.url(db_name), user=analyst_of(mode), password="")


async def test_the_owner_may_end_analysts_sessions_but_not_become_one(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute("SET ROLE duro_live_analyst")


# Whom the watch leaves alone


async def shorten(owner: asyncpg.Connection, limit: str) -> None:
    """From now on this limit of the watch is over at once."""
    definition = await owner.fetchval(
        "SELECT pg_get_functiondef('core.stop_runaway_queries()'::regprocedure)"
    )
    assert definition.count(f"'{limit}'") == 1
    await owner.execute(definition.replace(f"'{limit}'", "'0 s'"))


async def test_sessions_within_their_limits_are_left_alone(
    log_in: LogIn, owner: asyncpg.Connection, database: Database, cluster: Cluster, template: str
) -> None:
    idle, reading = await log_in(), await log_in()
    await idle.execute("SELECT 1")
    await reading.execute("BEGIN; SELECT * FROM daily_revenue")
    await owner.execute("SELECT pg_advisory_lock(1)")
    async with cluster.fresh_database(template) as name:
        elsewhere = await asyncpg.connect(
            cluster.url(name), user=analyst_of(Mode.LIVE), password="open sesame"
        )
        await elsewhere.execute("SELECT pg_advisory_lock(1)")
        assert await AnalystWatch(database).step() == 0
        for session in (idle, reading, owner, elsewhere):
            assert await session.fetchval("SELECT 1") == 1
        await elsewhere.close()


@pytest.mark.parametrize("limit", ["70 s", "10 min"])
async def test_a_transaction_left_open_is_ended_and_an_idle_session_is_not(
    log_in: LogIn, owner: asyncpg.Connection, database: Database, limit: str
) -> None:
    await shorten(owner, limit)
    idle, forgotten = await log_in(), await log_in()
    await idle.execute("SELECT 1")
    await forgotten.execute("BEGIN; SELECT 1")
    gone = pid(forgotten)
    assert await AnalystWatch(database).step() == 1
    assert await idle.fetchval("SELECT 1") == 1
    await until(owner, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", gone)


async def test_neither_a_past_statement_nor_one_without_a_limit_is_ended(
    log_in: LogIn, brief: None, owner: asyncpg.Connection, database: Database
) -> None:
    await shorten(owner, "2 s")
    await owner.execute("ALTER ROLE duro_sandbox_analyst SET statement_timeout = 0")
    try:
        past, unlimited = await log_in(), await log_in(Mode.TEST)
        await past.execute("SELECT 1")
        running = asyncio.create_task(unlimited.execute("SELECT pg_sleep(60)"))
        await until(
            owner, "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid(unlimited)
        )
        await until(
            owner, "SELECT now() - query_start > '110 ms' FROM pg_stat_activity WHERE pid = $1", pid(past)
        )
        assert await AnalystWatch(database).step() == 0
        await owner.execute("SELECT pg_cancel_backend($1)", pid(unlimited))
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
        assert await past.fetchval("SELECT 1") == 1
    finally:
        await owner.execute("ALTER ROLE duro_sandbox_analyst SET statement_timeout = '30s'")


def pid(session: asyncpg.Connection) -> int:
    return session.get_server_pid()


async def test_a_migration_ends_only_analysts_that_hold_an_advisory_lock(
    log_in: LogIn, owner: asyncpg.Connection, connect: Connect
) -> None:
    holding, reading, waiting, another = await log_in(), await log_in(), await log_in(), await connect(OWNER)
    await holding.execute("SELECT pg_advisory_lock(1)")
    await reading.execute("BEGIN; SELECT * FROM daily_revenue")
    await another.execute("SELECT pg_advisory_lock(2)")
    asking = asyncio.create_task(waiting.execute("SELECT pg_advisory_lock(2)"))
    await wait_until_blocked(owner, waiting)
    assert await owner.fetch(load("migrations")["free_lock"], list(ANALYST_ROLES)) == [(True,)]
    await another.execute("SELECT pg_advisory_unlock(2)")
    await asking
    assert await reading.fetchval("SELECT 1") == 1
