"""Deliveries through their life: fan-out, claim, settle, and what is asked about them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from asyncpg import Record

from schema.database import Connection, Executor
from schema.queries import load

_SQL = load("deliveries")
LEASE_FOR: Final = timedelta(minutes=10)
"""A backstop far beyond any attempt: leases normally end by settling, or with their worker."""
SETTLED_IN: Final = timedelta(seconds=30)
"""After this a lease that is known to nobody is no commit still on its way, but lost."""


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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this worker holds a lease on, with all that an attempt needs."""

    id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    """The event's."""
    tries: int
    """Attempts made of the present schedule."""
    replay: bool
    """An extra attempt that was asked for; the schedule goes on whatever comes of it."""
    data: str = field(repr=False)
    lease: int
    endpoint: EndpointTarget | None
    """None when the mode has no such endpoint any more."""
    size: int = 0
    """Characters of `data`, noted by who lets it go before the delivery is settled."""


class Verdict(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"
    SKIPPED = "skipped"
    RETRY = "retry"
    KEPT = "kept"
    """A replay failed: the schedule stays as it was."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Settlement:
    claim: ClaimedDelivery
    verdict: Verdict
    retry_in: timedelta | None = None
    """With RETRY. A duration, because the database's clock decides when it is over."""
    attempt: Attempt | None = None
    """None when nothing was sent."""


def new_lease() -> int:
    return secrets.randbits(63)


async def endpoints_of_tenants(tx: Connection, tenants: Sequence[UUID]) -> list[EndpointTarget]:
    return [_target(row) for row in await tx.fetch(_SQL["endpoints_of_tenants"], tenants)]


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


async def endpoints_waiting(connection: Executor, after: UUID, limit: int) -> list[tuple[UUID, UUID]]:
    """(tenant, endpoint) with a delivery due, in the order of the endpoints' ids, so that a caller can go round."""
    return [
        (row["tenant_id"], row["endpoint_id"])
        for row in await connection.fetch(_SQL["endpoints_waiting"], after, limit)
    ]


async def claim(
    tx: Connection,
    wanted: Sequence[tuple[UUID, int]],
    lease: int,
    worker: int,
    lease_for: timedelta = LEASE_FOR,
) -> list[ClaimedDelivery]:
    """`wanted` is (endpoint, how many at most). Run in a transaction: endpoints are read after the claim."""
    rows = await tx.fetch(
        _SQL["claim"], [e for e, _ in wanted], [n for _, n in wanted], lease, worker, lease_for
    )
    targets = await endpoints_by_id(tx, list({row["endpoint_id"] for row in rows})) if rows else {}
    return [ClaimedDelivery(**row, lease=lease, endpoint=targets.get(row["endpoint_id"])) for row in rows]


async def settle(tx: Connection, settlements: Sequence[Settlement]) -> set[UUID]:
    """Returns the deliveries settled; the rest had been taken over, and only their attempts are recorded."""
    attempts = [s.attempt for s in settlements]
    rows = await tx.fetch(
        _SQL["settle"],
        [s.claim.id for s in settlements],
        [s.claim.created_at for s in settlements],
        [s.claim.lease for s in settlements],
        [s.verdict.value for s in settlements],
        [s.retry_in for s in settlements],
        [s.claim.replay for s in settlements],
        [a and a.id for a in attempts],
        [s.claim.tenant_id for s in settlements],
        [s.claim.endpoint_id for s in settlements],
        [a and a.started_at for a in attempts],
        [a and a.outcome for a in attempts],
        [a and a.status_code for a in attempts],
        [a and a.error for a in attempts],
        [a and a.response_body for a in attempts],
        [a and a.address for a in attempts],
        [a and a.dns_ms for a in attempts],
        [a and a.connect_ms for a in attempts],
        [a and a.tls_ms for a in attempts],
        [a and a.first_byte_ms for a in attempts],
        [a and a.total_ms for a in attempts],
    )
    return {row["id"] for row in rows}


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


async def take_over(connection: Executor, dead_workers: Sequence[int]) -> int:
    """Makes due again what dead workers had claimed."""
    return _affected(await connection.execute(_SQL["take_over"], dead_workers))


async def release_orphans(
    connection: Executor,
    living: Sequence[int],
    lease_for: timedelta = LEASE_FOR,
    older_than: timedelta = SETTLED_IN,
) -> int:
    """Makes due again what is leased to nobody, or has been for longer than any lease."""
    return _affected(await connection.execute(_SQL["release_orphans"], living, lease_for, older_than))


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class HealthNote:
    endpoint_id: UUID
    tenant_id: UUID
    succeeded: bool
    failures: int
    """Since the last success noted here, or in all when there was none."""
    at: datetime
    error: str | None


async def note_health(tx: Connection, notes: Sequence[HealthNote]) -> None:
    await tx.execute(
        _SQL["note_health"],
        [n.endpoint_id for n in notes],
        [n.tenant_id for n in notes],
        [n.succeeded for n in notes],
        [n.failures for n in notes],
        [n.at for n in notes],
        [n.error for n in notes],
    )


async def disable_endpoint(tx: Connection, endpoint_id: UUID, reason: str, at_url: str) -> bool:
    """Whether it was enabled, and at this URL, until now. Gives up after two seconds if its row is locked."""
    await tx.execute(_SQL["do_not_wait_long"])
    return bool(await tx.fetchval(_SQL["disable_endpoint"], endpoint_id, reason, at_url))
