"""A worker that freezes in the middle of a transaction leaves no lock behind when it is declared dead."""

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


async def look_with_patience(presence: Presence) -> None:
    for _ in range(2):
        await asyncio.sleep(SOON_S)
        await through_outages(asyncio.Event(), "a look", presence.look)


async def cursor_is_free(database: Database) -> bool:
    return await database.data(Mode.TEST).fetchval(LOCK_CURSOR) is not None


async def test_a_dead_workers_session_that_holds_a_cursor_is_ended_even_between_preparing_and_executing(
    database: Database, db_url: str, key: bytes, impatient: None
) -> None:
    """There it counts as active, and none of the server's timeouts ends it."""
    observer = Presence(database, "an observer")
    await observer.register()
    async with Database.open(db_url, key, name=FROZEN) as its_database:
        frozen = Presence(its_database, FROZEN)
        await frozen.register()
        async with its_database.data(Mode.TEST).acquire() as connection:
            await connection.execute("BEGIN")
            assert await connection.fetchval(LOCK_CURSOR)
            await connection.prepare("SELECT 1")
            await look_with_patience(observer)
            assert not await cursor_is_free(database), "it lives"
            frozen.close()
            await look_with_patience(observer)
            assert await cursor_is_free(database)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
                await connection.execute("COMMIT")
    observer.close()
    await asyncio.sleep(0)  # the loop closes what has been terminated


async def test_a_dead_workers_session_to_which_the_server_writes_in_vain_is_ended(
    database: Database, db_url: str, key: bytes
) -> None:
    """It froze while a batch came; the server's timeouts see that late."""
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


async def test_a_session_of_that_name_which_is_not_standing_still_goes_on(
    database: Database, db_url: str, key: bytes
) -> None:
    """A worker restarted in a container has its predecessor's name."""
    minute, at_once = timedelta(minutes=1), timedelta(0)
    async with (
        Database.open(db_url, key, name=FROZEN) as its_database,
        its_database.data(Mode.TEST).acquire() as connection,
        connection.transaction(),
    ):
        await connection.execute("SELECT")
        assert await workers.end_sessions(database.data(Mode.TEST), FROZEN, minute) == 0
        assert await workers.end_sessions(database.data(Mode.LIVE), FROZEN, at_once) == 0, "another role's"
        assert await workers.end_sessions(database.data(Mode.TEST), "another", at_once) == 0
        assert await connection.fetchval("SELECT 1") == 1


async def test_the_server_itself_ends_sessions_of_those_who_fall_silent(database: Database) -> None:
    """So that a vanished or frozen worker keeps no lock and does not look alive for longer than seconds."""
    for pool in (database.core, *(database.data(mode) for mode in Mode)):
        assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
        assert (
            not hasattr(socket, "TCP_USER_TIMEOUT") or await pool.fetchval("SHOW tcp_user_timeout") == "10000"
        )
    presence = Presence(database, "a worker")
    await presence.register()
    assert presence._guard is not None
    assert await presence._guard.fetchval("SHOW idle_session_timeout") == "3s"
    presence.close()
    await asyncio.sleep(0)
