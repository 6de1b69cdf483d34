"""The demo's producers: the real billing engine with simulated tenants and customers, and plain connections as a
product in any language would use them.

Most transactions commit immediately. Some are slow. Some roll back and run a second time, as after a bank's timeout.
The rate follows a clock and not earlier responses, so latencies are those of a steady load.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

import asyncpg

from schema.billing.billing_cases import Fact
from schema.connections.connecting import Login
from schema.connections.database import CONNECT_TIMEOUT_S, Database, connect_with
from schema.event_catalog import catalog
from schema.event_log import events
from schema.modes import Mode
from schema.secret_box import derive_role_password
from service.billing.clock import VirtualClock
from service.billing.ledger import Unit
from service.demo.demo_tenants import DemoTenant
from service.demo.observations import Observations
from service.simulation.simulation_setup import Observed

T = TypeVar("T")
EVENTS_PER_SECOND: Final = 300
_SLOW: Final = 0.03
_SLOW_S: Final = (0.1, 0.6)
_ROLLED_BACK: Final = 0.04
_COMMAND_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TenantMode:
    """A tenant in one mode."""

    tenant: DemoTenant
    mode: Mode


class RateLimiter:
    """Limits all producers together to a steady rate of events."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._due: float | None = None

    async def take(self, count: int) -> None:
        """Waits until `count` more events fit the rate."""
        now = time.monotonic()
        due = now if self._due is None else self._due
        self._due = due + count * self._interval
        await asyncio.sleep(max(0.0, due - now))


class DemoLedger(Observed):
    """A ledger for one tenant and mode.

    It limits the rate, delays some transactions, rolls some back and repeats them, and records each in the observations.
    """

    def __init__(
        self,
        database: Database,
        clock: VirtualClock,
        observed: Observations,
        tenant_mode: TenantMode,
        rate_limiter: RateLimiter,
        rng: Random,
    ) -> None:
        super().__init__(database.data(tenant_mode.mode), clock)
        self._board = observed
        self._tenant_mode = tenant_mode
        self._pacer = rate_limiter
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
            self._board.commit(event_id, fact, self._tenant_mode.tenant, self._tenant_mode.mode, at)
        super().committed(unit)

    async def _roll_back(self, work: Callable[[Unit], Awaitable[T]]) -> None:
        async with self.pool.acquire() as tx:
            transaction = tx.transaction()
            await transaction.start()
            try:
                unit = Unit(tx, await self.clock.now(tx), self.clock.moment)
                await work(unit)
                for event_id, _ in unit.recorded:
                    self._board.roll_back(event_id, self._tenant_mode.mode)
            finally:
                await transaction.rollback()


@asynccontextmanager
async def product_connection(database: Database, mode: Mode) -> AsyncIterator[asyncpg.Connection]:
    """Connects as a product in any language would."""
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


def example(tenant_mode: TenantMode, type_: str) -> Fact:
    """Returns the catalog's example of the event type."""
    return Fact(tenant_mode.tenant.id, type_, dict(catalog()[type_].example))


async def record_event(
    database: Database, observed: Observations, tenant_mode: TenantMode, type_: str, *, timed: bool
) -> None:
    """Records one event in its own transaction, by plain SQL."""
    fact = example(tenant_mode, type_)
    async with product_connection(database, tenant_mode.mode) as connection:
        event_id = await events.record(connection, fact.tenant_id, fact.type, fact.data)
    observed.commit(event_id, fact, tenant_mode.tenant, tenant_mode.mode, time.monotonic(), timed=timed)


@asynccontextmanager
async def open_transaction(
    database: Database, observed: Observations, tenant_mode: TenantMode
) -> AsyncIterator[None]:
    """Keeps a transaction with an event open during the block, then rolls it back."""
    event = example(tenant_mode, "subscription_updated")
    async with product_connection(database, tenant_mode.mode) as connection:
        transaction = connection.transaction()
        await transaction.start()
        event_id = await events.record(connection, event.tenant_id, event.type, event.data)
        observed.roll_back(event_id, tenant_mode.mode)
        yield
        await transaction.rollback()
