"""Connection errors are sentences without secrets; later errors are classified."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest

from schema.connections.database import Database, connect_as_owner
from schema.connections.error_kinds import is_data_fault, is_query_canceled, is_transient, needs_operator
from schema.errors import Unavailable
from schema.modes import Mode
from tests.support.database_waits import wait_until_blocked
from tests.support.servers.connections import Connect
from tests.support.servers.databases import Cluster, with_database


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def refusal(url: str, key: bytes) -> str:
    with pytest.raises(Unavailable) as caught:
        async with Database.open(url, key):
            pass
    sentence = str(caught.value)
    password = urlsplit(url).password
    assert not password or password not in sentence
    assert caught.value.__cause__ is None
    return sentence


async def test_a_stopped_server_is_reported(key: bytes) -> None:
    url = f"postgresql://duro_owner:hunter2@127.0.0.1:{closed_port()}/duro"
    assert "cannot be reached (connection refused): start it" in await refusal(url, key)
    with pytest.raises(Unavailable, match="start it, or correct DURO_DATABASE_URL"):
        await connect_as_owner(url)


async def test_a_missing_database_is_reported(db_url: str, key: bytes) -> None:
    assert "does not exist: create it" in await refusal(with_database(db_url, "absent"), key)


async def test_an_unmigrated_database_is_reported(cluster: Cluster) -> None:
    async with cluster.empty_database() as name:
        said = await refusal(cluster.url(name), cluster.key)
        assert "is not migrated, or duro's roles lack rights" in said
        assert said.endswith("run duro migrate with the URL of the database's owner.")


async def test_another_secret_key_is_reported(db_url: str) -> None:
    assert "run duro migrate with this DURO_SECRET_KEY" in await refusal(db_url, bytes(32))


async def test_a_wrong_owner_password_is_reported(db_url: str) -> None:
    parts = urlsplit(db_url)
    url = parts._replace(netloc=parts.netloc.replace(parts.password or "", "hunter2")).geturl()
    with pytest.raises(Unavailable, match="refuses the login") as caught:
        await connect_as_owner(url)
    assert "hunter2" not in str(caught.value)


async def test_a_database_does_not_print_its_password_or_key(database: Database) -> None:
    shown = f"{database!r} {database}"
    assert str(urlsplit(database.url).password) not in shown
    assert database.key.hex() not in shown
    assert repr(database.key) not in shown


async def test_each_pool_sees_only_its_schema(database: Database) -> None:
    assert await database.core.fetchval("SHOW search_path") == "core"
    for mode in Mode:
        assert await database.data(mode).fetchval("SHOW search_path") == mode.schema


async def error_of(action: Awaitable[object]) -> Exception:
    try:
        await action
    except Exception as error:  # noqa: BLE001  # whatever the driver makes of it
        return error
    pytest.fail("nothing went wrong")


async def killed_backend(connect: Connect) -> Exception:
    victim, killer = await connect(), await connect("postgres")
    sleeping = asyncio.create_task(error_of(victim.execute("SELECT pg_sleep(20)")))
    await asyncio.sleep(0)
    await killer.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    return await sleeping


async def use_after_the_kill(connect: Connect) -> Exception:
    victim, killer = await connect(), await connect("postgres")
    await killer.execute("SELECT pg_terminate_backend($1, 5000)", victim.get_server_pid())
    return await error_of(victim.execute("SELECT 1"))


async def closed_connection(connect: Connect) -> Exception:
    connection = await connect()
    await connection.close()
    return await error_of(connection.execute("SELECT 1"))


async def refused_connection(connect: Connect) -> Exception:
    return await error_of(asyncpg.connect(f"postgresql://x@127.0.0.1:{closed_port()}/x"))


async def lock_timeout(connect: Connect) -> Exception:
    holder, waiter = await connect(), await connect()
    await holder.execute("SELECT pg_advisory_lock(1)")
    await waiter.execute("SET lock_timeout = 1")
    return await error_of(waiter.execute("SELECT pg_advisory_lock(1)"))


async def deadlock(connect: Connect) -> Exception:
    one, other, observer = await connect("postgres"), await connect("postgres"), await connect("postgres")
    await one.execute("SET deadlock_timeout = '10s'; SELECT pg_advisory_lock(1)")
    await other.execute("SET deadlock_timeout = 1; SELECT pg_advisory_lock(2)")
    waiting = asyncio.create_task(one.execute("SELECT pg_advisory_lock(2)"))
    await wait_until_blocked(observer, one)
    error = await error_of(other.execute("SELECT pg_advisory_lock(1)"))
    await other.close()
    await waiting
    return error


async def serialization_failure(connect: Connect) -> Exception:
    connection = await connect()
    return await error_of(
        connection.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"),
    )


async def read_only(connect: Connect) -> Exception:
    """The error of a read-only standby."""
    connection = await connect("duro_owner")
    await connection.execute("SET default_transaction_read_only = on")
    return await error_of(connection.execute("CREATE TABLE t ()"))


async def disk_full(connect: Connect) -> Exception:
    return await error_of((await connect()).execute("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$"))


async def statement_timeout(connect: Connect) -> Exception:
    connection = await connect()
    await connection.execute("SET statement_timeout = 1")
    return await error_of(connection.execute("SELECT pg_sleep(5)"))


async def broken_constraint(connect: Connect) -> Exception:
    return await error_of(
        (await connect("duro_owner")).execute("INSERT INTO core.tenants (id) VALUES (NULL)")
    )


async def broken_cursor(connect: Connect) -> Exception:
    """The loops' internal tables contain no event data."""
    return await error_of((await connect()).execute("INSERT INTO cursors (consumer, pos) VALUES (NULL, 1)"))


async def too_large_for_an_index(connect: Connect) -> Exception:
    connection = await connect("postgres")
    await connection.execute("CREATE TEMP TABLE keyed (name text PRIMARY KEY)")
    statement = "INSERT INTO keyed SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n"
    error = await error_of(connection.execute(statement))
    assert isinstance(error, asyncpg.ProgramLimitExceededError)
    return error


async def error_of_a_trigger(connect: Connect) -> Exception:
    """This SQLSTATE also means a value too large for an index, or exhausted transaction ids."""
    return await error_of((await connect()).execute("DO $$ BEGIN RAISE SQLSTATE '54000'; END $$"))


async def argument_of_another_type(connect: Connect) -> Exception:
    return await error_of((await connect()).execute("SELECT $1::uuid", "none"))


async def missing_right(connect: Connect) -> Exception:
    return await error_of((await connect()).execute("DELETE FROM event_log"))


async def missing_partition(connect: Connect) -> Exception:
    connection = await connect("postgres")
    await connection.execute("CREATE TEMP TABLE monthly (at date) PARTITION BY RANGE (at)")
    error = await error_of(connection.execute("INSERT INTO monthly VALUES (now())"))
    assert isinstance(error, asyncpg.CheckViolationError)
    return error


async def exhausted_sequence(connect: Connect) -> Exception:
    connection = await connect("postgres")
    await connection.execute(
        "CREATE TEMP SEQUENCE short MAXVALUE 2; SELECT nextval('short'), nextval('short')"
    )
    return await error_of(connection.execute("SELECT nextval('short')"))


async def bug_of_the_driver(_connect: Connect) -> Exception:
    """The driver's error when its connection is lost."""
    module = {"__name__": "asyncpg.protocol.protocol"}
    exec("def lost(): None.transport", module)
    try:
        module["lost"]()  # type: ignore[operator]  it is the function
    except AttributeError as error:
        return error
    raise AssertionError


async def missing_table(connect: Connect) -> Exception:
    return await error_of((await connect()).execute("SELECT * FROM absent"))


async def bug_of_ours(_connect: Connect) -> Exception:
    return KeyError("endpoint")


TRANSIENT = (
    killed_backend,
    use_after_the_kill,
    closed_connection,
    refused_connection,
    lock_timeout,
    deadlock,
    serialization_failure,
    read_only,
    disk_full,
    statement_timeout,
    missing_table,
    missing_right,
    missing_partition,
    exhausted_sequence,
    error_of_a_trigger,
    broken_cursor,
    bug_of_the_driver,
)
DATA_ERRORS = (broken_constraint, too_large_for_an_index, argument_of_another_type, bug_of_ours)
Failure = Callable[[Connect], Awaitable[Exception]]


@pytest.mark.parametrize("failure", TRANSIENT)
async def test_transient_errors_are_retried(connect: Connect, failure: Failure) -> None:
    error = await failure(connect)
    assert is_transient(error), repr(error)
    assert not is_data_fault(error)


@pytest.mark.parametrize("failure", DATA_ERRORS)
async def test_data_errors_are_not_retried(connect: Connect, failure: Failure) -> None:
    error = await failure(connect)
    assert not is_transient(error), repr(error)
    assert is_data_fault(error)


async def test_a_canceled_statement_may_fit_in_smaller_batches(connect: Connect) -> None:
    assert is_query_canceled(await statement_timeout(connect))
    assert not is_query_canceled(await lock_timeout(connect))


@pytest.mark.parametrize(("failure", "expected"), [(missing_table, True), (lock_timeout, False)])
async def test_errors_that_need_an_operator_are_known(
    connect: Connect, failure: Failure, expected: bool
) -> None:
    assert needs_operator(await failure(connect)) == expected


async def test_lock_timeout_is_shorter_than_statement_timeout(database: Database) -> None:
    for pool in (database.core, *(database.data(mode) for mode in Mode)):
        rows = await pool.fetch(
            "SELECT name, setting::int AS ms FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout')"
        )
        limits = {row["name"]: row["ms"] for row in rows}
        assert 10_000 < limits["lock_timeout"] <= limits["statement_timeout"] / 2


async def test_an_outage_is_logged_by_no_pool(
    cluster: Cluster, superuser: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Each part reports its failures once a minute; the driver's pools would log a traceback per try."""
    async with cluster.fresh_database() as name, Database.open(cluster.url(name), cluster.key) as database:
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await superuser.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name
        )
        pools = [pool for pools in database.pools().values() for pool in pools]
        for pool in pools * 4:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await pool.fetchval("SELECT 1")
        assert caplog.records == []
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert [await pool.fetchval("SELECT 1") for pool in pools] == [1] * len(pools)
