"""A billing product at work: the real engine, whose merchants and customers are played by the simulation, and plain
connections as a product in any language would have them.

Most of its transactions commit at once, some take their time, some roll back and are done again, as after a time-out at
the bank. The pace is set by a clock and not by what comes back, so latencies are those of a steady load.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

import asyncpg

from schema import events
from schema.billing.books import Fact
from schema.connecting import Login
from schema.database import CONNECT_TIMEOUT_S, Database, connect_with
from schema.event_catalog import catalog
from schema.modes import Mode
from schema.secret_box import derive_role_password
from service.billing.clock import VirtualClock
from service.billing.ledger import Unit
from service.demo.board import Board
from service.demo.merchants import Merchant
from service.simulation.stage import Observed

T = TypeVar("T")
EVENTS_PER_SECOND: Final = 300
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
    """Hands out events at a steady rate to however many producers ask."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._due: float | None = None

    async def take(self, count: int) -> None:
        """Waits until so many more may have been recorded."""
        now = time.monotonic()
        due = now if self._due is None else self._due
        self._due = due + count * self._interval
        await asyncio.sleep(max(0.0, due - now))


class DemoLedger(Observed):
    """A shop's transactions: paced, now and then slow, now and then rolled back and done again; all of it is noted."""

    def __init__(
        self, database: Database, clock: VirtualClock, board: Board, shop: Shop, pacer: Pacer, rng: Random
    ) -> None:
        super().__init__(database.data(shop.mode), clock)
        self._board = board
        self._shop = shop
        self._pacer = pacer
        self._rng = rng

    async def once(self, work: Callable[[Unit], Awaitable[T]]) -> T:
        if self._rng.random() < _ROLLED_BACK:
            await self._roll_back(work)
        recorded = len(self._board.committed)
        result = await super().once(work)
        if len(self._board.committed) > recorded:
            await self._pacer.take(len(self._board.committed) - recorded)
        return result

    async def committing(self, unit: Unit) -> None:
        if unit.recorded and self._rng.random() < _SLOW:
            await asyncio.sleep(self._rng.uniform(*_SLOW_S))

    def committed(self, unit: Unit) -> None:
        at = time.monotonic()
        for event_id, fact in unit.recorded:
            self._board.commit(event_id, fact, self._shop.merchant, self._shop.mode, at)
        super().committed(unit)

    async def _roll_back(self, work: Callable[[Unit], Awaitable[T]]) -> None:
        async with self.pool.acquire() as tx:
            transaction = tx.transaction()
            await transaction.start()
            try:
                unit = Unit(tx, await self.clock.now(tx), self.clock.moment)
                await work(unit)
                for event_id, _ in unit.recorded:
                    self._board.roll_back(event_id, self._shop.mode)
            finally:
                await transaction.rollback()


@asynccontextmanager
async def product_connection(database: Database, mode: Mode) -> AsyncIterator[asyncpg.Connection]:
    """As a product in any language would log in."""
    connection = await connect_with(
        database.target,
        Login(mode.role, derive_role_password(database.key, mode.role)),
        "duro demo producer",
        {"search_path": mode.schema},
        command_timeout=_COMMAND_TIMEOUT_S,
    )
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    finally:
        connection.terminate()


def example(shop: Shop, type_: str) -> Fact:
    """As the catalog has it."""
    return Fact(shop.merchant.id, type_, dict(catalog()[type_].example))


async def say(database: Database, board: Board, shop: Shop, type_: str, *, timed: bool) -> None:
    """One event in a transaction of its own, by plain SQL."""
    fact = example(shop, type_)
    async with product_connection(database, shop.mode) as connection:
        event_id = await events.record(connection, fact.tenant_id, fact.type, fact.data)
    board.commit(event_id, fact, shop.merchant, shop.mode, time.monotonic(), timed=timed)


@asynccontextmanager
async def left_open(database: Database, board: Board, shop: Shop) -> AsyncIterator[None]:
    """A transaction with an event in it, open for the length of the block and then rolled back."""
    forgotten = example(shop, "subscription_updated")
    async with product_connection(database, shop.mode) as connection:
        transaction = connection.transaction()
        await transaction.start()
        event_id = await events.record(connection, forgotten.tenant_id, forgotten.type, forgotten.data)
        board.roll_back(event_id, shop.mode)
        yield
        await transaction.rollback()
