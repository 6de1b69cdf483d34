"""What the database tells of the engine's state. Every reading looks at a bounded number of rows, so the counts are
"at least" once they reach their limit, and gives up after STATEMENT_S.
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
"""Deliveries per lane; about 40 ms. Endpoints out of service, the same."""
VISITED: Final = 1_000
"""Endpoints with deliveries waiting, per lane; about 20 ms."""
MOST_UNHEALTHY: Final = 10_000
STATEMENT_S: Final = 2.0
"""A backlog drained while some transaction holds the horizon back leaves entries in the index that every walk passes,
and no limit counts them."""


@dataclass(frozen=True, slots=True)
class WaitingDeliveries:
    """Deliveries that wait in the table, of one lane; each of `overdue` is among `due`, and these among `waiting`."""

    waiting: int
    due: int
    overdue: int


@dataclass(frozen=True, slots=True)
class EndpointsDue:
    """Endpoints that have a delivery due, of one lane and with one reason for it."""

    held: str
    """Why it is due and not sent: retries_paused, paused, breaker, rate_limit; or `no`: it should be sent now."""
    endpoints: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class UnhealthyEndpoints:
    """Endpoints in service that are failing, and those whose breaker is open or half-open, failing or not."""

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
    """None when no transaction is open that the owner may see."""
    pid: int | None
    """0: a prepared transaction, which has no session."""
    hidden: int
    """Sessions whose transaction does not show its age to the owner."""


async def waiting(connection: Executor, lane: Lane) -> WaitingDeliveries:
    row = await connection.fetchrow(_SQL["waiting"], lane, OVERDUE_AFTER, COUNTED, timeout=STATEMENT_S)
    assert row is not None
    return WaitingDeliveries(*row)


async def endpoints_due(connection: Executor, lane: Lane, visit: int = VISITED) -> list[EndpointsDue]:
    """By why they are held. Of the first `visit` endpoints that have a delivery waiting, by id."""
    rows = await connection.fetch(_SQL["endpoints_due"], lane, visit, timeout=STATEMENT_S)
    return [EndpointsDue(*row) for row in rows]


async def unhealthy_endpoints(connection: Executor) -> UnhealthyEndpoints:
    row = await connection.fetchrow(_SQL["unhealthy_endpoints"], MOST_UNHEALTHY, timeout=STATEMENT_S)
    assert row is not None
    return UnhealthyEndpoints(*row)


async def retries_paused(connection: Executor) -> bool:
    return bool(await connection.fetchval(_SQL["retries_paused"], timeout=STATEMENT_S))


async def inactive_endpoints(core: Executor) -> list[InactiveEndpoints]:
    """A mode without any has no entry."""
    rows = await core.fetch(_CORE_SQL["inactive_endpoints"], COUNTED, timeout=STATEMENT_S)
    return [InactiveEndpoints(*row) for row in rows]


async def oldest_transaction(core: Executor) -> OldestTransaction:
    row = await core.fetchrow(_CORE_SQL["oldest_transaction"], timeout=STATEMENT_S)
    assert row is not None
    return OldestTransaction(*row)


async def workers(core: Executor) -> int:
    count: int = await core.fetchval(_CORE_SQL["workers"], timeout=STATEMENT_S)
    return count
