"""A billing product in miniature: plain connections as a mode's own role, and events recorded in its own transactions.

Most transactions commit at once, some take their time, some roll back and are done again, as after a time-out
at the bank. The pace is set by a clock and not by what comes back, so latencies are those of a steady load.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID

import asyncpg

from schema import events
from schema.database import CONNECT_TIMEOUT_S, Database
from schema.ids import format_id, new_id
from schema.modes import Mode
from schema.secret_box import derive_role_password
from service.demo.board import Board
from service.demo.lifecycles import Fact, Step, lifecycle
from service.demo.merchants import Merchant

EVENTS_PER_SECOND: Final = 300
PRODUCERS_PER_SHOP: Final = 2
_SLOW: Final = 0.03
_SLOW_S: Final = (0.1, 0.6)
_ROLLED_BACK: Final = 0.04
_COMMAND_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Shop:
    """One merchant in one mode."""

    merchant: Merchant
    mode: Mode


class Pacer:
    """Hands out `total` events at a steady rate to however many producers ask."""

    def __init__(self, total: int, per_second: float) -> None:
        self._left = total
        self._interval = 1 / per_second
        self._due: float | None = None

    async def take(self, wanted: int) -> int:
        """Waits for its turn; returns how many of `wanted` may be recorded, 0 at the end."""
        granted = min(wanted, self._left)
        self._left -= granted
        if granted:
            now = time.monotonic()
            due = now if self._due is None else self._due
            self._due = due + granted * self._interval
            await asyncio.sleep(max(0.0, due - now))
        return granted


@asynccontextmanager
async def product_connection(database: Database, mode: Mode) -> AsyncIterator[asyncpg.Connection]:
    """As a product in any language would log in."""
    connection = await asyncpg.connect(
        database.url,
        user=mode.role,
        password=derive_role_password(database.key, mode.role),
        server_settings={"search_path": mode.schema, "application_name": "duro demo producer"},
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=_COMMAND_TIMEOUT_S,
    )
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    finally:
        connection.terminate()


async def produce(database: Database, board: Board, shop: Shop, pacer: Pacer, rng: Random) -> None:
    """One subscription's life after another, until the pacer has no more."""
    async with product_connection(database, shop.mode) as connection:
        for step in _steps(rng):
            granted = await pacer.take(len(step))
            if not granted:
                return
            await _carry_out(connection, board, shop, step[:granted], rng)


def _steps(rng: Random) -> Iterator[Step]:
    while True:
        yield from lifecycle(rng, lambda prefix: format_id(prefix, new_id()))


async def _carry_out(
    connection: asyncpg.Connection, board: Board, shop: Shop, step: Step, rng: Random
) -> None:
    if rng.random() < _ROLLED_BACK:
        transaction = connection.transaction()
        await transaction.start()
        for event_id in await _record(connection, shop, step):
            board.roll_back(event_id, shop.mode)
        await transaction.rollback()
    slow_s = rng.uniform(*_SLOW_S) if rng.random() < _SLOW else 0.0
    await commit(connection, board, shop, step, slow_s=slow_s)


async def commit(
    connection: asyncpg.Connection,
    board: Board,
    shop: Shop,
    step: Step,
    *,
    slow_s: float = 0.0,
    timed: bool = True,
) -> None:
    async with connection.transaction():
        ids = await _record(connection, shop, step)
        await asyncio.sleep(slow_s)
    at = time.monotonic()
    for event_id, fact in zip(ids, step, strict=True):
        board.commit(event_id, fact, shop.merchant, shop.mode, at, timed=timed)


async def _record(connection: asyncpg.Connection, shop: Shop, step: Step) -> list[UUID]:
    return [await events.record(connection, shop.merchant.id, fact.type, fact.data) for fact in step]


@asynccontextmanager
async def left_open(database: Database, board: Board, shop: Shop) -> AsyncIterator[None]:
    """A transaction with an event in it, open for the length of the block and then rolled back."""
    forgotten = Fact("subscription_updated", {"note": "a session that somebody forgot to close"})
    async with product_connection(database, shop.mode) as connection:
        transaction = connection.transaction()
        await transaction.start()
        for event_id in await _record(connection, shop, (forgotten,)):
            board.roll_back(event_id, shop.mode)
        yield
        await transaction.rollback()
