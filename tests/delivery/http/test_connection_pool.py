"""What the pool keeps, what it lets go, and that nothing is left once it is closed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from delivery.http.attempt_contract import SendLimits
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.connection_pool import ConnectionPool
from delivery.http.exchange import Exchange
from delivery.http.http1_connection import Connection

HERE = ("127.0.0.1", 80, None)
THERE = ("127.0.0.2", 80, None)


class Wire:
    """A transport that sends nothing."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Lines:
    """A dialler whose connections are open when the test says so."""

    def __init__(self, kept_open: int) -> None:
        self.limits = SendLimits(kept_open=kept_open)
        self.dialled = 0
        self.may_open = asyncio.Event()
        self.wire = Wire()

    async def open(
        self, new_connection: Callable[[Any], Connection], addresses: Any, *_more: Any
    ) -> Connection:
        self.dialled += 1
        await self.may_open.wait()
        connection = new_connection(addresses[0])
        connection.connection_made(self.wire)
        return connection


class Address:
    text = "127.0.0.1"


def pool_of(kept_open: int = 10) -> tuple[ConnectionPool, Lines]:
    lines = Lines(kept_open)
    return ConnectionPool(lines), lines


def opened(pool: ConnectionPool, destination: Any = HERE) -> tuple[Connection, Wire]:
    connection, wire = Connection(pool, SendLimits(), destination), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_as_many_connections_are_kept_as_may_be_open() -> None:
    pool, _ = pool_of(kept_open=2)
    one, two = opened(pool), opened(pool)
    pool.released(one[0])
    pool.released(two[0])
    assert (pool.idle, one[1].aborted, two[1].aborted) == (2, False, False)
    three = opened(pool)
    pool.released(three[0])
    assert (pool.idle, pool.in_use, three[1].aborted) == (2, 0, True)
    await pool.close()


async def test_a_taken_connection_is_in_use_and_is_taken_once() -> None:
    pool, _ = pool_of()
    connection, _wire = opened(pool)
    pool.released(connection)
    assert pool.take(THERE) is None
    assert pool.take(HERE) is connection
    assert (pool.idle, pool.in_use) == (0, 1)
    assert pool.take(HERE) is None
    await pool.close()


async def test_a_connection_that_closes_while_idle_is_forgotten() -> None:
    pool, _ = pool_of()
    gone, stays = opened(pool)[0], opened(pool)[0]
    for connection in (stays, gone):
        pool.released(connection)
    gone.connection_lost(None)
    assert (pool.idle, pool.in_use) == (1, 0)
    assert pool.take(HERE) is stays
    stays.connection_lost(None)
    assert (pool.idle, pool.in_use, pool.take(HERE)) == (0, 0, None)
    await pool.close()


async def test_closing_aborts_every_connection_and_leaves_no_timer() -> None:
    pool, _ = pool_of()
    idle, used = opened(pool), opened(pool)
    pool.released(idle[0])
    await pool.close()
    assert (idle[1].aborted, used[1].aborted) == (True, True)
    assert (pool.idle, pool.in_use, pool._keepalive._timer) == (0, 0, None)


async def test_a_closed_pool_keeps_and_dials_nothing() -> None:
    pool, lines = pool_of()
    await pool.close()
    late, wire = opened(pool)
    lines.may_open.set()
    pool.released(late)
    assert (wire.aborted, pool.idle) == (True, 0)
    with pytest.raises(AttemptFailed, match="closed"):
        await pool.dial([Address()], 80, None, Exchange(), 0.0)
    assert lines.dialled == 0


async def test_a_connection_that_opens_after_the_close_is_aborted() -> None:
    pool, lines = pool_of()
    dialling = asyncio.create_task(pool.dial([Address()], 80, None, Exchange(), 0.0))
    await asyncio.sleep(0)
    await pool.close()
    lines.may_open.set()
    with pytest.raises(AttemptFailed, match="closed"):
        await dialling
    assert (lines.dialled, lines.wire.aborted, pool.in_use) == (1, True, 0)
