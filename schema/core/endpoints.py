"""Stores endpoints for operators. Secrets and headers pass through it sealed; delivery/egress checks URLs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from schema.connections.database import Executor, Pool
from schema.deliveries import endpoint_health
from schema.deliveries.endpoint_health import NEVER_SENT_TO, EndpointHealth
from schema.errors import Conflict, NotFound
from schema.event_log import events
from schema.ids import ENDPOINT, format_id, new_id
from schema.modes import Mode
from schema.pages import After, Page, page
from schema.queries import load
from schema.secret_repr import HidesSecrets

NO_HEADERS: Final = b""
NO_LIMIT: Final = 0
HIGHEST_RATE: Final = 10_000
_SQL = load("endpoints")
MAX_PER_TENANT: Final = 1000
MAX_SECRETS: Final = 10  # each adds a signature to every webhook's headers


@dataclass(frozen=True, slots=True)
class NewEndpoint(HidesSecrets):
    id: UUID
    tenant_id: UUID
    mode: Mode
    url: str
    description: str
    event_types: Sequence[str]
    sealed_headers: bytes | None = field(repr=False)
    sealed_secret: bytes = field(repr=False)
    rate_limit: int | None = None
    """Deliveries per second, 1 to HIGHEST_RATE. None: no limit."""


@dataclass(frozen=True, slots=True)
class EndpointChanges(HidesSecrets):
    """Changes to an endpoint. None leaves a field unchanged."""

    url: str | None
    description: str | None
    event_types: Sequence[str] | None
    sealed_headers: bytes | None = field(repr=False)
    """NO_HEADERS removes them."""
    rate_limit: int | None = None
    """NO_LIMIT removes it."""


@dataclass(frozen=True, slots=True)
class Endpoint(HidesSecrets):
    id: UUID
    tenant_id: UUID
    mode: Mode
    url: str
    description: str
    event_types: Sequence[str]
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    """The last time, if ever."""
    paused: bool
    """Paused by an operator: its deliveries wait."""
    rate_limit: int | None
    """Deliveries per second."""
    created_at: datetime
    updated_at: datetime
    sealed_headers: bytes | None = field(repr=False)
    secrets: int
    """How many secrets sign now: two during a rotation's grace period."""
    health: EndpointHealth = NEVER_SENT_TO
    """Set by the caller, since only the data role can read it."""


async def create(core: Pool, new: NewEndpoint) -> None:
    """Raises Conflict when the tenant has MAX_PER_TENANT in this mode, since each event becomes that many deliveries."""
    async with core.acquire() as tx, tx.transaction():
        if await tx.fetchval(_SQL["count"], new.tenant_id, new.mode.value) >= MAX_PER_TENANT:
            raise Conflict(
                f"The tenant has {MAX_PER_TENANT} endpoints in mode {new.mode}, which is the maximum. "
                "Subscribe an existing endpoint to more event types."
            )
        await tx.execute(
            _SQL["create"],
            new.id,
            new.tenant_id,
            new.mode.value,
            new.url,
            new.description,
            new.event_types,
            new.sealed_headers,
            new.rate_limit,
        )
        await tx.execute(_SQL["add_secret"], new_id(), new.id, new.sealed_secret)


async def update(core: Executor, endpoint_id: UUID, changes: EndpointChanges) -> None:
    found = await core.fetchval(
        _SQL["update"],
        endpoint_id,
        changes.url,
        changes.description,
        changes.event_types,
        changes.sealed_headers,
        changes.rate_limit,
    )
    if found is None:
        raise NotFound(f"There is no endpoint {format_id(ENDPOINT, endpoint_id)}.")


async def show(core: Executor, endpoint_id: UUID) -> Endpoint:
    row = await core.fetchrow(_SQL["show"], endpoint_id)
    if row is None:
        raise NotFound(
            f"There is no endpoint {format_id(ENDPOINT, endpoint_id)}; duro endpoint list shows a tenant's."
        )
    return Endpoint(**{**row, "mode": Mode(row["mode"])})


async def list_endpoints(
    core: Executor, tenant_id: UUID, mode: Mode, after: After, limit: int
) -> Page[Endpoint]:
    rows = await core.fetch(_SQL["list"], tenant_id, mode.value, after.created_at, after.id, limit + 1)
    return page([Endpoint(**{**row, "mode": Mode(row["mode"])}) for row in rows], limit)


async def rotate_secret(core: Pool, endpoint_id: UUID, sealed: bytes, grace: timedelta) -> datetime:
    """Adds a secret that signs from the next attempt on. Returns until when the old secret signs as well."""
    async with core.acquire() as tx, tx.transaction():
        if await tx.fetchval(_SQL["lock"], endpoint_id) is None:
            raise NotFound(f"There is no endpoint {format_id(ENDPOINT, endpoint_id)}.")
        await tx.execute(_SQL["drop_expired_secrets"], endpoint_id)
        retired = await tx.fetchrow(_SQL["retire_secrets"], endpoint_id, grace)
        assert retired is not None
        until: datetime = retired["until"]
        secrets: int = retired["secrets"]
        if secrets >= MAX_SECRETS and grace:
            raise Conflict(
                f"{secrets} older secrets of this endpoint still sign. Wait until one ends, or rotate with --grace 0s, "
                "which ends them all."
            )
        await tx.execute(_SQL["add_secret"], new_id(), endpoint_id, sealed)
    return until


async def pause(core: Executor, endpoint: Endpoint) -> None:
    """Raises Conflict when it is already paused."""
    if not await core.fetchval(_SQL["set_paused"], endpoint.id, True):
        raise Conflict(f"Endpoint {format_id(ENDPOINT, endpoint.id)} is paused already.")


async def resume(core: Executor, endpoint: Endpoint) -> None:
    """Raises Conflict when it is not paused."""
    if not await core.fetchval(_SQL["set_paused"], endpoint.id, False):
        raise Conflict(f"Endpoint {format_id(ENDPOINT, endpoint.id)} is not paused.")


async def enable(data: Pool, endpoint: Endpoint) -> None:
    await _switch(data, endpoint, "webhook_endpoint_enabled", None)


async def disable(data: Pool, endpoint: Endpoint, reason: str) -> None:
    await _switch(data, endpoint, "webhook_endpoint_disabled", reason)


async def _switch(data: Pool, endpoint: Endpoint, event_type: str, reason: str | None) -> None:
    """Commits the change together with the event about it."""
    shown = format_id(ENDPOINT, endpoint.id)
    event_data = {"endpointId": shown}  # not its URL, which may hold a token
    async with data.acquire() as tx, tx.transaction():
        if reason is None:
            changed = await endpoint_health.enable(tx, endpoint.id)
        else:
            changed = await endpoint_health.disable(tx, endpoint.id, reason)
            event_data["reason"] = reason
        if not changed:
            raise Conflict(f"Endpoint {shown} is {'enabled' if reason is None else 'disabled'} already.")
        await events.record(tx, endpoint.tenant_id, event_type, event_data)
