"""A worker that freezes inside a transaction keeps no lock once it is declared dead."""

import asyncio
import socket
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from delivery.engine import presence as presence_module
from delivery.engine.presence import Presence
from schema.connections.database import Database
from schema.deliveries import workers
from schema.modes import Mode
from schema.polling import through_outages
from tests.support.servers.duro_process import eventually

SOON_S = 0.05
FROZEN = "a worker that froze"
LOCK_CURSOR = "SELECT name FROM consumers WHERE name = 'fanout' FOR UPDATE SKIP LOCKED"
MORE_THAN_BUFFERS_TAKE = "SELECT repeat('x', 1000000) FROM generate_series(1, 60)"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "PATIENCE_S", SOON_S)


async def check_twice(presence: Presence) -> None:
    for _ in range(2):
        await asyncio.sleep(SOON_S)
        await through_outages(asyncio.Event(), "a check", presence.check)


async def cursor_is_free(database: Database) -> bool:
    return await database.data(Mode.TEST).fetchval(LOCK_CURSOR) is not None


async def test_a_dead_workers_session_that_locks_a_cursor_is_ended(
    database: Database, db_url: str, key: bytes, impatient: None
) -> None:
    """Even between prepare and execute: it is active there, and no timeout of the server ends it."""
    observer = Presence(database, "an observer")
    await observer.register()
    async with Database.open(db_url, key, name=FROZEN) as its_database:
        frozen = Presence(its_database, FROZEN)
        await frozen.register()
        async with its_database.data(Mode.TEST).acquire() as connection:
            await connection.execute("BEGIN")
            assert await connection.fetchval(LOCK_CURSOR)
            await connection.prepare("SELECT 1")
            await check_twice(observer)
            assert not await cursor_is_free(database), "the worker is alive"
            frozen.close()
            await check_twice(observer)
            assert await cursor_is_free(database)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
                await connection.execute("COMMIT")
    observer.close()
    await asyncio.sleep(0)  # the event loop closes terminated connections


async def test_a_session_whose_client_stopped_reading_is_ended(
    database: Database, db_url: str, key: bytes
) -> None:
    """The worker froze while it received a batch; the server's timeouts find that late."""
    ours = database.data(Mode.TEST)
    async with (
        Database.open(db_url, key, name=FROZEN) as its_database,
        its_database.data(Mode.TEST).acquire() as connection,
    ):
        await connection.execute("BEGIN")
        assert await connection.fetchval(LOCK_CURSOR)
        pid = connection.get_server_pid()
        connection._transport.pause_reading()
        batch = asyncio.create_task(connection.execute(MORE_THAN_BUFFERS_TAKE))
        waits_for = partial(ours.fetchval, "SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)

        async def is_stuck() -> bool:
            return bool(await waits_for() == "ClientWrite")

        await eventually(is_stuck, "the server waits for the client to read")
        assert await workers.end_sessions(ours, FROZEN, timedelta(minutes=1)) == 0
        assert await workers.end_sessions(ours, FROZEN, timedelta(0)) == 1
        await eventually(partial(cursor_is_free, database), "the cursor is free")
        connection.terminate()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await batch


async def test_an_active_session_of_the_same_name_is_kept(
    database: Database, db_url: str, key: bytes
) -> None:
    """A worker that restarts in a container has the name of its predecessor."""
    minute, immediately = timedelta(minutes=1), timedelta(0)
    async with (
        Database.open(db_url, key, name=FROZEN) as its_database,
        its_database.data(Mode.TEST).acquire() as connection,
        connection.transaction(),
    ):
        await connection.execute("SELECT")
        assert await workers.end_sessions(database.data(Mode.TEST), FROZEN, minute) == 0
        assert await workers.end_sessions(database.data(Mode.LIVE), FROZEN, immediately) == 0, (
            "a session of another role"
        )
        assert await workers.end_sessions(database.data(Mode.TEST), "another", immediately) == 0
        assert await connection.fetchval("SELECT 1") == 1


async def test_the_server_ends_sessions_of_silent_clients(database: Database) -> None:
    """So a vanished or frozen worker keeps no lock, and looks alive for seconds at most."""
    for pool in (database.core, *(database.data(mode) for mode in Mode)):
        assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
        assert (
            not hasattr(socket, "TCP_USER_TIMEOUT") or await pool.fetchval("SHOW tcp_user_timeout") == "10000"
        )
    presence = Presence(database, "a worker")
    await presence.register()
    assert presence._session is not None
    assert await presence._session.fetchval("SHOW idle_session_timeout") == "3s"
    presence.close()
    await asyncio.sleep(0)
