"""Deliveries through their life: fan-out, claim, settle, and what is asked about them.

The values that are made once per delivery are not frozen: freezing makes each of them eight times as dear (2 µs for a
dozen fields). Nobody changes them all the same.
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

_SQL = load("deliveries")
LEASE_FOR: Final = timedelta(minutes=10)
"""A backstop far beyond any attempt: leases normally end by settling, or with their worker."""
WORTH_A_COPY: Final = 20
"""COPY is cheaper per row and takes a round trip more."""
SETTLED_IN: Final = timedelta(seconds=30)
"""After this a lease that is known to nobody is no commit still on its way, but lost."""


class Lane(IntEnum):
    """Where a delivery waits. The lanes share nothing but the endpoints they lead to."""

    FIRST = 0
    """Its first attempt."""
    RETRY = 1
    """A retry, a replay, a backfill: whatever is not fresh."""


_DELIVERY_COLUMNS: Final = (
    *("id", "tenant_id", "endpoint_id", "event_id", "event_type", "created_at"),
    *("lease", "leased_by", "leased_until"),
)
_ATTEMPT_COLUMNS: Final = (
    *("id", "tenant_id", "delivery_id", "endpoint_id", "created_at", "replay", "started_at", "outcome"),
    *("status_code", "error", "response_body", "address"),
    *("dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "total_ms", "settled"),
)
_NOBODYS: Final = (None, None, None)


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """An endpoint as sending needs it, read anew for every batch so that a change takes effect at once."""

    id: UUID
    tenant_id: UUID
    url: str
    event_types: tuple[str, ...]
    sealed_headers: bytes | None
    enabled: bool
    sealed_secrets: tuple[bytes, ...]
    """Those still valid, newest first."""
    held: bool = True
    """Paused, rate limited or with an open breaker: what comes for it goes through the table."""
    failing: bool = False
    """No success has been noted since the last failure: the next one, whichever worker has it, is news."""


@dataclass(frozen=True, slots=True)
class WaitingEndpoint:
    """An endpoint that has deliveries waiting in a lane."""

    tenant_id: UUID
    endpoint_id: UUID
    claimable: bool
    """One of them is due, and neither a pause nor the breaker is in the way."""
    enabled: bool
    rate_limit: int | None
    """Deliveries per second."""
    openings: int | None
    """Of its breaker, if that is open or half-open."""


@dataclass(slots=True)
class PlannedDelivery:
    """One row for fan-out to insert; `claimed` when this worker sends it itself at once."""

    id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    enabled: bool
    claimed: bool


@dataclass(slots=True)
class ClaimedDelivery:
    """A delivery that this worker holds a lease on, with all that an attempt needs. Its data is let go of once the
    body is made."""

    id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    """The event's."""
    schedule_attempts: int
    """Attempts made of the present schedule."""
    replay: bool
    """An extra attempt that was asked for; the schedule goes on whatever comes of it."""
    data: str = field(repr=False)
    lease: int
    endpoint: EndpointTarget | None
    """None when the mode has no such endpoint any more."""
    lane: Lane = Lane.FIRST
    size: int = 0
    """Characters of `data`, once that is let go."""
    readable: bool = True
    """Otherwise the event's stored data is damaged, and `data` is empty: there is nothing to send."""

    def drop_data(self) -> None:
        self.size, self.data = len(self.data), ""


class Verdict(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"
    RETRY = "retry"
    KEPT = "kept"
    """A replay failed: the schedule stays as it was."""


@dataclass(slots=True)
class Attempt:
    """One row of history. `outcome` is a word of the schema's; times in milliseconds, None where not reached."""

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
    """With RETRY. A duration, because the database's clock decides when it is over."""
    attempt: Attempt | None = None
    """None when nothing was sent."""


def new_lease() -> int:
    return secrets.randbits(63)


class Routes(NamedTuple):
    """Where events may go, and the database's clock."""

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
    """Inserts what is not there yet; returns the ids that are new."""
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


async def fan_out_fresh(
    tx: Connection,
    planned: Sequence[PlannedDelivery],
    lease: int,
    worker: int,
    now: datetime,
    lease_for: timedelta = LEASE_FOR,
) -> set[UUID]:
    """The same by COPY, for many that are all new: raises UniqueViolationError if one of them is not, and then
    the transaction is lost. `now` is the database's. Half as dear as `fan_out`, for the driver encodes rows at a third
    of the price of arrays and the server inserts them together; a moment costs it 0.9 µs, so most are defaults."""
    mine = (lease, worker, now + lease_for)
    pending = [p for p in planned if p.enabled]
    await tx.copy_records_to_table(
        "webhook_deliveries",
        columns=_DELIVERY_COLUMNS,
        records=[
            (p.id, p.tenant_id, p.endpoint_id, p.event_id, p.event_type, p.created_at)
            + (mine if p.claimed else _NOBODYS)
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
    """Of the lane's endpoints that follow `after` in the order of their ids, the next ones, so that a caller can go
    round; fewer than `steps` when these are the last."""
    return [
        WaitingEndpoint(**row)
        for row in await connection.fetch(_SQL["endpoints_waiting"], lane, after, steps)
    ]


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """How far an endpoint with a rate limit has come, by the database's clock."""

    next_at: datetime | None
    now: datetime


async def lock_rate_limits(tx: Connection, endpoints: Sequence[UUID]) -> dict[UUID, RateLimitState]:
    """Those of the endpoints that nobody else is claiming for; nobody else will before the transaction ends."""
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
    """`wanted` is (endpoint, how many at most). Run in a transaction: endpoints are read after the claim. Not
    `with_data`: for one whose event cannot be read.
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


async def skip_waiting(connection: Executor, lane: Lane, endpoint_id: UUID, limit: int) -> int:
    """Skips what waits for an endpoint that is disabled; returns how many deliveries."""
    return _affected(await connection.execute(_SQL["skip_waiting"], lane, endpoint_id, limit))


async def settle(tx: Connection, settlements: Sequence[Settlement], *, again: bool = True) -> set[UUID]:
    """Returns the deliveries settled; the rest had been taken over, and only their attempts are recorded.

    `again` is False when nobody can have written these before, and saves a look.
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
    """Makes due again what this worker holds without knowing it; returns how many deliveries."""
    return _affected(
        await connection.execute(_SQL["release_unknown_leases"], worker, known, lease_for, older_than)
    )


async def release_leases(connection: Executor, workers: Collection[int], leases: Sequence[int]) -> int:
    """Makes due again what was committed under these leases although it looked as if it had failed."""
    return _affected(await connection.execute(_SQL["release_leases"], list(workers), leases))


async def take_over(connection: Executor, dead_workers: Sequence[int]) -> int:
    """Makes due again what dead workers had claimed, except what somebody has locked."""
    return _affected(await connection.execute(_SQL["take_over"], dead_workers))


async def release_orphans(
    connection: Executor,
    living: Sequence[int],
    lease_for: timedelta = LEASE_FOR,
    older_than: timedelta = SETTLED_IN,
) -> int:
    """Makes due again what is leased to nobody, or has been to the living for twice the lease."""
    return _affected(await connection.execute(_SQL["release_orphans"], living, lease_for, older_than))


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])
