"""How endpoints fare, as the database has it: for all workers, by its own clock."""

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
    """What a worker decided about an endpoint's breaker."""

    openings: int
    """Without a recovery in between. The one that begins, or the one that is over."""
    open_for: timedelta | None
    """From when it is written. None: it closes."""
    follows: int = 0
    """The opening before, as far as the database has been told; 0: none. An opening that follows one which is over says
    nothing of the endpoint as it is now."""


@dataclass(frozen=True, slots=True)
class HealthNote:
    endpoint_id: UUID
    tenant_id: UUID
    succeeded: bool
    failures: int
    """Since the last success noted here, or in all when there was none."""
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
    """For a batch written again because the fate of its COMMIT is unknown, and after it: attempt → whether it settled
    its delivery, for those that had been recorded then."""
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
    """Whether it was enabled, and at this URL if one is given, until now. Its health is left behind, so that it starts
    afresh when it is enabled again."""
    if not await tx.fetchval(_SQL["disable_endpoint"], endpoint_id, reason, at_url):
        return False
    await tx.fetchrow(_SQL["reset_health"], endpoint_id, None)
    return True


async def enable(tx: Connection, endpoint_id: UUID) -> bool:
    """Whether it was disabled until now. Results that came in after that are left behind too."""
    if not await tx.fetchval(_SQL["enable_endpoint"], endpoint_id):
        return False
    await tx.fetchrow(_SQL["reset_health"], endpoint_id, None)
    return True


async def reset_health(connection: Executor, endpoint_id: UUID) -> None:
    """What the old URL's server did says nothing of the new one's."""
    await connection.fetchrow(_SQL["reset_health"], endpoint_id, None)


async def limit_lock_wait(tx: Connection) -> None:
    """Two seconds at most for each locked row, in this transaction: LockNotAvailableError after that."""
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
    """What an event tells of an endpoint that fails."""

    consecutive_failures: int
    last_error: str | None


async def failing(
    connection: Executor, for_long: timedelta, after: FailingEndpoint | None, limit: int
) -> list[FailingEndpoint]:
    """The longest first; fewer than `limit` when these are the last."""
    since, endpoint_id = (after.failing_since, after.endpoint_id) if after else (None, _FIRST)
    rows = await connection.fetch(_SQL["failing"], for_long, since, endpoint_id, limit)
    return [FailingEndpoint(**row) for row in rows]


async def warn(tx: Connection, found: FailingEndpoint, percent: int) -> FailureSummary | None:
    """None when there is nothing to tell any more: it succeeded, or somebody else tells."""
    return _failure_summary(await tx.fetchrow(_SQL["warn"], found.endpoint_id, found.failing_since, percent))


async def disable_failing(tx: Connection, found: FailingEndpoint, reason: str) -> FailureSummary | None:
    """Disables an endpoint that still fails; the same. After None the transaction has to be undone."""
    if not await tx.fetchval(_SQL["disable_endpoint"], found.endpoint_id, reason, None):
        return None
    return _failure_summary(await tx.fetchrow(_SQL["reset_health"], found.endpoint_id, found.failing_since))


def _failure_summary(row: Record | None) -> FailureSummary | None:
    return FailureSummary(**row) if row is not None else None


# For people


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
    """With the first failure from then on, unless there is a success before."""


NEVER_SENT_TO: Final = EndpointHealth(datetime.min.replace(tzinfo=UTC))


async def show(
    connection: Executor, tenant_id: UUID, endpoints: Sequence[UUID], disable_after: timedelta
) -> dict[UUID, EndpointHealth]:
    """Those that have been sent to at all."""
    rows = await connection.fetch(_SQL["show"], tenant_id, endpoints, disable_after)
    return {
        row["endpoint_id"]: EndpointHealth(**{k: v for k, v in row.items() if k != "endpoint_id"})
        for row in rows
    }
