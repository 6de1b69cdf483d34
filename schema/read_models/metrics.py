"""Reads the engine's state from the database for metrics. Every query reads a bounded number of rows and ends after
STATEMENT_S. A count that reaches its limit means "at least".
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from schema.connections.database import Executor
from schema.deliveries.deliveries import Lane
from schema.queries import load

_SQL = load("metrics")
_CORE_SQL = load("metrics_core")
OVERDUE_AFTER: Final = timedelta(seconds=60)
COUNTED: Final = 100_000
"""Deliveries per lane, about 40 ms; also disabled or paused endpoints."""
VISITED: Final = 1_000
"""Endpoints with waiting deliveries, per lane; about 20 ms."""
MOST_UNHEALTHY: Final = 10_000
STATEMENT_S: Final = 2.0
"""Needed beside the row limits: a backlog drained while a transaction holds the horizon back leaves dead index entries,
which every scan passes and no limit counts."""


@dataclass(frozen=True, slots=True)
class WaitingDeliveries:
    """Deliveries of one lane that wait in the table. `waiting` includes `due`, which includes `overdue`."""

    waiting: int
    due: int
    overdue: int


@dataclass(frozen=True, slots=True)
class EndpointsDue:
    """Endpoints of one lane that have a delivery due, grouped by what holds it."""

    held: str
    """Why a due delivery is not sent: retries_paused, paused, breaker or rate_limit. `no`: it should be sent now."""
    endpoints: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class UnhealthyEndpoints:
    """Active endpoints that are failing, and those whose breaker is open or half-open, whether failing or not."""

    failing: int
    open: int
    half_open: int


@dataclass(frozen=True, slots=True)
class InactiveEndpoints:
    mode: str
    disabled: int
    paused: int


@dataclass(frozen=True, slots=True)
class OldestTransaction:
    seconds: float | None
    """None when no transaction is open that the owner can see."""
    pid: int | None
    """0: a prepared transaction, which has no session."""
    hidden: int
    """Sessions that hide the age of their transaction from the owner."""


async def waiting(connection: Executor, lane: Lane) -> WaitingDeliveries:
    row = await connection.fetchrow(_SQL["waiting"], lane, OVERDUE_AFTER, COUNTED, timeout=STATEMENT_S)
    assert row is not None
    return WaitingDeliveries(*row)


async def endpoints_due(connection: Executor, lane: Lane, visit: int = VISITED) -> list[EndpointsDue]:
    """Groups the first `visit` endpoints with a waiting delivery, by id, by what holds them."""
    rows = await connection.fetch(_SQL["endpoints_due"], lane, visit, timeout=STATEMENT_S)
    return [EndpointsDue(*row) for row in rows]


async def unhealthy_endpoints(connection: Executor) -> UnhealthyEndpoints:
    row = await connection.fetchrow(_SQL["unhealthy_endpoints"], MOST_UNHEALTHY, timeout=STATEMENT_S)
    assert row is not None
    return UnhealthyEndpoints(*row)


async def retries_paused(connection: Executor) -> bool:
    return bool(await connection.fetchval(_SQL["retries_paused"], timeout=STATEMENT_S))


async def inactive_endpoints(core: Executor) -> list[InactiveEndpoints]:
    """Disabled and paused endpoints per mode. A mode without any has no entry."""
    rows = await core.fetch(_CORE_SQL["inactive_endpoints"], COUNTED, timeout=STATEMENT_S)
    return [InactiveEndpoints(*row) for row in rows]


async def oldest_transaction(core: Executor) -> OldestTransaction:
    row = await core.fetchrow(_CORE_SQL["oldest_transaction"], timeout=STATEMENT_S)
    assert row is not None
    return OldestTransaction(*row)


async def workers(core: Executor) -> int:
    count: int = await core.fetchval(_CORE_SQL["workers"], timeout=STATEMENT_S)
    return count
