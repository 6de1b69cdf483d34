"""The life of deliveries: fan-out, claim, settle, and the release of leases.

Dataclasses created once per delivery are not frozen, because freezing costs 8 times as much (2 µs for a dozen fields). Treat
them as frozen all the same.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Connection, Executor
from schema.queries import load
from schema.secret_repr import HidesSecrets

_SQL = load("deliveries")
LEASE_FOR: Final = timedelta(minutes=10)
"""A backstop far longer than any attempt. Leases normally end by settling, or with their worker."""
WORTH_A_COPY: Final = 20
"""Rows. COPY is cheaper per row, but takes one more round trip."""
SETTLED_IN: Final = timedelta(seconds=30)
"""A lease that no worker knows after this time is lost; until then its commit may still be under way."""


class Lane(IntEnum):
    """The queue in which a delivery waits. The lanes share only their endpoints."""

    FIRST = 0
    """First attempts."""
    RETRY = 1
    """Retries, replays and backfills."""


_DELIVERY_COLUMNS: Final = (
    *("id", "tenant_id", "endpoint_id", "event_id", "event_type", "created_at"),
    *("lease", "leased_by", "leased_until"),
)
_ATTEMPT_COLUMNS: Final = (
    *("id", "tenant_id", "delivery_id", "endpoint_id", "created_at", "replay", "started_at", "outcome"),
    *("status_code", "error", "response_body", "address"),
    *("dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "total_ms", "settled"),
)
_NO_LEASE: Final = (None, None, None)


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """The endpoint data that sending needs, read again for every batch so that a change takes effect immediately."""

    id: UUID
    tenant_id: UUID
    url: str
    event_types: tuple[str, ...]
    sealed_headers: bytes | None
    enabled: bool
    sealed_secrets: tuple[bytes, ...]
    """Valid ones, newest first."""
    held: bool = True
    """Paused, rate limited or with an open breaker: its new deliveries wait in the table."""
    failing: bool = False
    """No success is recorded since the last failure, so the next success must be recorded."""


@dataclass(frozen=True, slots=True)
class WaitingEndpoint:
    """An endpoint with deliveries that wait in a lane."""

    tenant_id: UUID
    endpoint_id: UUID
    claimable: bool
    """One of them is due, and neither a pause nor the breaker holds it."""
    enabled: bool
    rate_limit: int | None
    """Deliveries per second."""
    openings: int | None
    """Openings of its breaker, if that is open or half-open."""


@dataclass(slots=True)
class PlannedDelivery:
    """One row for fan-out to insert. `claimed`: this worker sends it immediately."""

    id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    enabled: bool
    claimed: bool


@dataclass(slots=True)
class ClaimedDelivery(HidesSecrets):
    """A delivery leased by this worker, with everything that an attempt needs. Its data is dropped once the body is built."""

    id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    """The event's."""
    schedule_attempts: int
    """Attempts made in the current schedule."""
    replay: bool
    """An extra attempt on request; the schedule continues whatever its result."""
    data: str = field(repr=False)
    lease: int
    endpoint: EndpointTarget | None
    """None when the mode no longer has this endpoint."""
    lane: Lane = Lane.FIRST
    size: int = 0
    """Length of `data`, in characters, once that is dropped."""
    readable: bool = True
    """False: the event's stored data is damaged and `data` is empty, so it cannot be sent."""

    def drop_data(self) -> None:
        self.size, self.data = len(self.data), ""


class Verdict(StrEnum):
    """The result of an attempt for its delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"
    RETRY = "retry"
    KEPT = "kept"
    """A replay failed: the schedule stays as it was."""


@dataclass(slots=True)
class Attempt:
    """One recorded attempt. `outcome` is one of the schema's values. Times are in milliseconds, None if not reached."""

    id: UUID
    started_at: datetime
    outcome: str
    status_code: int | None
    error: str | None
    response_body: bytes
    address: str | None
    dns_ms: float | None
    connect_ms: float | None
    tls_ms: float | None
    first_byte_ms: float | None
    total_ms: float


@dataclass(slots=True)
class Settlement:
    claim: ClaimedDelivery
    verdict: Verdict
    retry_in: timedelta | None = None
    """With RETRY. A duration, because the database's clock decides when it ends."""
    attempt: Attempt | None = None
    """None when nothing was sent."""


def new_lease() -> int:
    return secrets.randbits(63)


class Routes(NamedTuple):
    """The endpoints that events may go to, and the database's clock."""

    targets: Sequence[EndpointTarget]
    now: datetime | None
    """None when there are no targets."""


async def endpoints_of_tenants(tx: Connection, tenants: Sequence[UUID]) -> Routes:
    rows = await tx.fetch(_SQL["endpoints_of_tenants"], tenants)
    return Routes([_target(row) for row in rows], rows[0]["now"] if rows else None)


async def endpoints_by_id(tx: Connection, ids: Sequence[UUID]) -> dict[UUID, EndpointTarget]:
    return {row["id"]: _target(row) for row in await tx.fetch(_SQL["endpoints_by_id"], ids)}


def _target(row: Record) -> EndpointTarget:
    return EndpointTarget(
        row["id"],
        row["tenant_id"],
        row["url"],
        tuple(row["event_types"]),
        row["sealed_headers"],
        row["enabled"],
        tuple(row["sealed_secrets"]),
        row["held"],
        row["failing"],
    )


async def fan_out(
    tx: Connection,
    planned: Sequence[PlannedDelivery],
    lease: int,
    worker: int,
    lease_for: timedelta = LEASE_FOR,
) -> set[UUID]:
    """Inserts the deliveries that do not exist yet and returns their ids."""
    rows = await tx.fetch(
        _SQL["fan_out"],
        [p.id for p in planned],
        [p.tenant_id for p in planned],
        [p.endpoint_id for p in planned],
        [p.event_id for p in planned],
        [p.event_type for p in planned],
        [p.created_at for p in planned],
        [p.enabled for p in planned],
        [p.claimed for p in planned],
        lease,
        worker,
        lease_for,
    )
    return {row["id"] for row in rows}


async def copy_new_deliveries(
    tx: Connection,
    planned: Sequence[PlannedDelivery],
    lease: int,
    worker: int,
    now: datetime,
    lease_for: timedelta = LEASE_FOR,
) -> set[UUID]:
    """Inserts by COPY many deliveries that are all new. If one is not, it raises UniqueViolationError and the transaction
    is aborted. `now` is the database's clock. It costs half of `fan_out`: the driver encodes rows at a third of the cost
    of arrays, and the server inserts them together. Encoding a timestamp takes 0.9 µs, so most columns use defaults."""
    own_lease = (lease, worker, now + lease_for)
    pending = [p for p in planned if p.enabled]
    await tx.copy_records_to_table(
        "webhook_deliveries",
        columns=_DELIVERY_COLUMNS,
        records=[
            (p.id, p.tenant_id, p.endpoint_id, p.event_id, p.event_type, p.created_at)
            + (own_lease if p.claimed else _NO_LEASE)
            for p in pending
        ],
    )
    new = {p.id for p in pending}
    if len(new) < len(planned):
        new |= await fan_out(tx, [p for p in planned if not p.enabled], lease, worker, lease_for)
    return new


async def endpoints_waiting(
    connection: Executor, lane: Lane, after: UUID, steps: int
) -> list[WaitingEndpoint]:
    """The lane's next endpoints after `after`, by id, so that a caller can visit all in turn. Fewer than `steps`: these
    are the last."""
    return [
        WaitingEndpoint(**row)
        for row in await connection.fetch(_SQL["endpoints_waiting"], lane, after, steps)
    ]


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """When an endpoint with a rate limit may be sent to next, by the database's clock."""

    next_at: datetime | None
    now: datetime


async def lock_rate_limits(tx: Connection, endpoints: Sequence[UUID]) -> dict[UUID, RateLimitState]:
    """Locks those endpoints for which no other worker is claiming; none will before the transaction ends."""
    await tx.execute(_SQL["add_rate_limits"], endpoints)
    return {
        row["endpoint_id"]: RateLimitState(row["next_at"], row["now"])
        for row in await tx.fetch(_SQL["lock_rate_limits"], endpoints)
    }


async def advance_rate_limits(tx: Connection, next_at: Mapping[UUID, datetime]) -> None:
    await tx.execute(_SQL["advance_rate_limits"], list(next_at), list(next_at.values()))


async def claim(
    tx: Connection,
    lane: Lane,
    wanted: Sequence[tuple[UUID, int]],
    lease: int,
    worker: int,
    lease_for: timedelta = LEASE_FOR,
    *,
    with_data: bool = True,
) -> list[ClaimedDelivery]:
    """Claims due deliveries of one lane. `wanted` holds (endpoint, maximum count). Run it in a transaction, because
    endpoints are read after the claim. `with_data=False` claims a delivery whose event cannot be read.
    """
    rows = await tx.fetch(
        _SQL["claim"],
        lane,
        [e for e, _ in wanted],
        [n for _, n in wanted],
        lease,
        worker,
        lease_for,
        with_data,
    )
    targets = await endpoints_by_id(tx, list({row["endpoint_id"] for row in rows})) if rows else {}
    return [
        ClaimedDelivery(
            **row, lease=lease, endpoint=targets.get(row["endpoint_id"]), lane=lane, readable=with_data
        )
        for row in rows
    ]


async def event_data(tx: Connection, claim: ClaimedDelivery) -> str:
    data: str = await tx.fetchval(_SQL["event_data"], claim.tenant_id, claim.event_id, claim.created_at)
    return data


async def skip_waiting(connection: Executor, lane: Lane, endpoint_id: UUID, limit: int) -> int:
    """Skips waiting deliveries of a disabled endpoint; returns how many."""
    return _affected(await connection.execute(_SQL["skip_waiting"], lane, endpoint_id, limit))


async def settle(tx: Connection, settlements: Sequence[Settlement], *, again: bool = True) -> set[UUID]:
    """Settles deliveries and returns the ids of those settled. The rest had been taken over: only their attempts are
    recorded.

    `again=False` promises that this batch was never written before, and saves a lookup.
    """
    rows = await tx.fetch(
        _SQL["settle"],
        [s.claim.id for s in settlements],
        [s.claim.created_at for s in settlements],
        [s.claim.lease for s in settlements],
        [s.verdict for s in settlements],
        [s.retry_in for s in settlements],
        [s.claim.replay for s in settlements],
        [s.attempt is not None for s in settlements],
        [s.claim.tenant_id for s in settlements],
    )
    settled = {(row["id"], row["lease"]) for row in rows}
    attempts = [
        _attempt_row(s.claim, s.attempt, settled=(s.claim.id, s.claim.lease) in settled)
        for s in settlements
        if s.attempt is not None
    ]
    if attempts and (again or len(attempts) < WORTH_A_COPY):
        statement = _SQL["record_attempts_again" if again else "record_attempts"]
        await tx.execute(statement, *zip(*attempts, strict=True))
    elif attempts:
        await tx.copy_records_to_table("webhook_attempts", columns=_ATTEMPT_COLUMNS, records=attempts)
    return {delivery for delivery, _ in settled}


def _attempt_row(claim: ClaimedDelivery, attempt: Attempt, *, settled: bool) -> tuple[object, ...]:
    return (
        attempt.id,
        claim.tenant_id,
        claim.id,
        claim.endpoint_id,
        claim.created_at,
        claim.replay,
        attempt.started_at,
        attempt.outcome,
        attempt.status_code,
        attempt.error,
        attempt.response_body,
        attempt.address,
        attempt.dns_ms,
        attempt.connect_ms,
        attempt.tls_ms,
        attempt.first_byte_ms,
        attempt.total_ms,
        settled,
    )


async def release_unknown_leases(
    connection: Executor,
    worker: int,
    known: Sequence[int],
    lease_for: timedelta = LEASE_FOR,
    older_than: timedelta = SETTLED_IN,
) -> int:
    """Releases leases of this worker that it does not know; returns how many deliveries are due again."""
    return _affected(
        await connection.execute(_SQL["release_unknown_leases"], worker, known, lease_for, older_than)
    )


async def release_leases(connection: Executor, workers: Collection[int], leases: Sequence[int]) -> int:
    """Releases these leases, whose commit seemed to fail but may have succeeded; returns how many deliveries."""
    return _affected(await connection.execute(_SQL["release_leases"], list(workers), leases))


async def take_over(connection: Executor, dead_workers: Sequence[int]) -> int:
    """Releases the leases of dead workers, except on deliveries that are locked; returns how many."""
    return _affected(await connection.execute(_SQL["take_over"], dead_workers))


async def release_orphans(
    connection: Executor,
    living: Sequence[int],
    lease_for: timedelta = LEASE_FOR,
    older_than: timedelta = SETTLED_IN,
) -> int:
    """Releases leases of unregistered workers, and leases held for twice their length; returns how many."""
    return _affected(await connection.execute(_SQL["release_orphans"], living, lease_for, older_than))


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])
