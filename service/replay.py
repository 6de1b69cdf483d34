"""Replays that an operator asks for: new attempts of the same deliveries, with the same event ids."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from schema import delivery_history, endpoints, tenants
from schema.database import Database
from schema.delivery_history import ReplayStep
from schema.endpoints import Endpoint
from schema.errors import Conflict, InvalidInput
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from service.endpoint_admin import require_endpoint
from service.locating import locate_delivery


@dataclass(frozen=True, slots=True)
class Selection:
    """Settled deliveries whose events lie in [since, until)."""

    tenant_id: UUID
    mode: Mode
    since: datetime
    until: datetime
    endpoint_id: UUID | None
    statuses: Sequence[str]


async def replay_one(database: Database, delivery_id: UUID) -> str:
    """The status it had. Raises NotFound, and Conflict when its endpoint is disabled."""
    located = await locate_delivery(database, delivery_id)
    delivery = await delivery_history.show(located.pool, located.tenant_id, delivery_id)
    _require_enabled(await endpoints.show(database.core, delivery.endpoint_id))
    return await delivery_history.replay(located.pool, located.tenant_id, delivery_id)


async def replay_many(database: Database, selection: Selection) -> AsyncIterator[ReplayStep]:
    """Running totals, one per short transaction. Raises InvalidInput, NotFound or Conflict before the first."""
    if selection.since >= selection.until:
        raise InvalidInput(
            "Nothing lies in that time: --since must be before --until, which is now when left out."
        )
    await tenants.require(database.core, selection.tenant_id)
    if selection.endpoint_id is not None:
        _require_enabled(
            await require_endpoint(database, selection.endpoint_id, selection.tenant_id, selection.mode)
        )
    replayed = seen = 0
    async for step in delivery_history.replay_since(
        database.data(selection.mode),
        selection.tenant_id,
        selection.statuses,
        selection.endpoint_id,
        selection.since,
        selection.until,
    ):
        replayed, seen = replayed + step.replayed, seen + step.seen
        yield ReplayStep(replayed, seen)


def _require_enabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        shown = format_id(ENDPOINT, endpoint.id)
        raise Conflict(f"Endpoint {shown} is disabled: run duro endpoint enable {shown}, then replay.")
