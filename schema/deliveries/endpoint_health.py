"""Endpoint health in the database, shared by all workers and dated by the database's clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Connection, Executor
from schema.deliveries.deliveries import Settlement
from schema.queries import load

_SQL = load("endpoint_health")
_FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A worker's decision to open or close an endpoint's breaker."""

    openings: int
    """Number of the opening that begins or ends, counted since the last recovery."""
    open_for: timedelta | None
    """Counted from the write. None: the breaker closes."""
    follows: int = 0
    """Number of the previous opening that the database knows; 0: none. An opening that follows one which has ended is out
    of date and is ignored."""


@dataclass(frozen=True, slots=True)
class HealthNote:
    endpoint_id: UUID
    tenant_id: UUID
    succeeded: bool
    failures: int
    """Since the last success in this batch, or in the whole batch if it has none."""
    error: str | None
    breaker: BreakerChange | None = None


async def note_health(tx: Connection, notes: Sequence[HealthNote]) -> None:
    await tx.execute(
        _SQL["note_health"],
        [n.endpoint_id for n in notes],
        [n.tenant_id for n in notes],
        [n.succeeded for n in notes],
        [n.failures for n in notes],
        [n.error for n in notes],
    )
    changes = [(n.endpoint_id, n.breaker) for n in notes if n.breaker is not None]
    opened = [(endpoint, change) for endpoint, change in changes if change.open_for is not None]
    closed = [(endpoint, change) for endpoint, change in changes if change.open_for is None]
    if opened:
        await tx.execute(
            _SQL["open_breakers"],
            [endpoint for endpoint, _ in opened],
            [change.openings for _, change in opened],
            [change.open_for for _, change in opened],
            [change.follows for _, change in opened],
        )
    if closed:
        await tx.execute(
            _SQL["close_breakers"],
            [endpoint for endpoint, _ in closed],
            [change.openings for _, change in closed],
        )


async def already_counted(tx: Connection, settlements: Sequence[Settlement]) -> dict[UUID, bool]:
    """For a batch that is written again because the result of its COMMIT is unknown: the attempts that were already
    recorded, each with whether it settled its delivery."""
    made = [(s.claim, s.attempt) for s in settlements if s.attempt is not None]
    rows = await tx.fetch(
        _SQL["already_counted"],
        [claim.tenant_id for claim, _ in made],
        [claim.id for claim, _ in made],
        [attempt.id for _, attempt in made],
        [claim.created_at for claim, _ in made],
    )
    return {row["id"]: row["settled"] for row in rows}


async def disable(tx: Connection, endpoint_id: UUID, reason: str, at_url: str | None = None) -> bool:
    """False when it was disabled already, or has another URL than `at_url`. Its health is reset, so that it starts without
    failures when it is enabled again."""
    if not await tx.fetchval(_SQL["disable_endpoint"], endpoint_id, reason, at_url):
        return False
    await tx.fetchrow(_SQL["reset_health"], endpoint_id, None)
    return True


async def enable(tx: Connection, endpoint_id: UUID) -> bool:
    """False when it was enabled already. Results that came in while it was disabled are reset too."""
    if not await tx.fetchval(_SQL["enable_endpoint"], endpoint_id):
        return False
    await tx.fetchrow(_SQL["reset_health"], endpoint_id, None)
    return True


async def reset_health(connection: Executor, endpoint_id: UUID) -> None:
    """Forgets the endpoint's failures, as after a change of its URL."""
    await connection.fetchrow(_SQL["reset_health"], endpoint_id, None)


async def limit_lock_wait(tx: Connection) -> None:
    """Limits each lock wait of this transaction to two seconds; then LockNotAvailableError is raised."""
    await tx.execute(_SQL["limit_lock_wait"])


# Those that fail for long


@dataclass(frozen=True, slots=True)
class FailingEndpoint:
    endpoint_id: UUID
    tenant_id: UUID
    failing_since: datetime
    last_failure_at: datetime
    warned: int
    now: datetime
    active: bool
    """Neither disabled nor paused."""


@dataclass(frozen=True, slots=True)
class FailureSummary:
    """The data about failures in an event about a failing endpoint."""

    consecutive_failures: int
    last_error: str | None


async def failing(
    connection: Executor, for_long: timedelta, after: FailingEndpoint | None, limit: int
) -> list[FailingEndpoint]:
    """Endpoints that have failed for that long, the longest first. Fewer than `limit`: these are the last."""
    since, endpoint_id = (after.failing_since, after.endpoint_id) if after else (None, _FIRST)
    rows = await connection.fetch(_SQL["failing"], for_long, since, endpoint_id, limit)
    return [FailingEndpoint(**row) for row in rows]


async def warn(tx: Connection, found: FailingEndpoint, percent: int) -> FailureSummary | None:
    """Records a warning. None when none is due: the endpoint succeeded, or another worker warns."""
    return _failure_summary(await tx.fetchrow(_SQL["warn"], found.endpoint_id, found.failing_since, percent))


async def disable_failing(tx: Connection, found: FailingEndpoint, reason: str) -> FailureSummary | None:
    """Disables an endpoint that still fails. None when it does not; then the caller must roll back."""
    if not await tx.fetchval(_SQL["disable_endpoint"], found.endpoint_id, reason, None):
        return None
    return _failure_summary(await tx.fetchrow(_SQL["reset_health"], found.endpoint_id, found.failing_since))


def _failure_summary(row: Record | None) -> FailureSummary | None:
    return FailureSummary(**row) if row is not None else None


# For display


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    as_of: datetime
    consecutive_failures: int = 0
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_error: str | None = None
    open_until: datetime | None = None
    disables_at: datetime | None = None
    """The first failure after this time disables it, unless a success comes before."""


NEVER_SENT_TO: Final = EndpointHealth(datetime.min.replace(tzinfo=UTC))


async def show(
    connection: Executor, tenant_id: UUID, endpoints: Sequence[UUID], disable_after: timedelta
) -> dict[UUID, EndpointHealth]:
    """Health of those of the endpoints that had any attempt."""
    rows = await connection.fetch(_SQL["show"], tenant_id, endpoints, disable_after)
    return {
        row["endpoint_id"]: EndpointHealth(**{k: v for k, v in row.items() if k != "endpoint_id"})
        for row in rows
    }
