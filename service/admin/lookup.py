"""Finds the mode and the tenant of an event or a delivery by its id."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from schema.connections.database import Database, Executor, Pool
from schema.deliveries import delivery_history
from schema.errors import NotFound
from schema.event_log import events
from schema.ids import DELIVERY, EVENT, TENANT, format_id
from schema.modes import Mode


@dataclass(frozen=True, slots=True)
class Location:
    mode: Mode
    tenant_id: UUID
    pool: Pool
    """The mode's pool."""

    @property
    def tenant(self) -> str:
        return format_id(TENANT, self.tenant_id)


async def locate_event(database: Database, event_id: UUID) -> Location:
    """Raises NotFound."""
    location = await _locate(database, events.tenant_of, event_id)
    if location is None:
        raise NotFound(
            f"There is no event {format_id(EVENT, event_id)} in either mode: duro event list lists them."
        )
    return location


async def locate_delivery(database: Database, delivery_id: UUID) -> Location:
    """Raises NotFound."""
    location = await _locate(database, delivery_history.tenant_of, delivery_id)
    if location is None:
        raise NotFound(
            f"There is no delivery {format_id(DELIVERY, delivery_id)} in either mode: "
            "duro delivery list lists them."
        )
    return location


async def _locate(
    database: Database, tenant_of: Callable[[Executor, UUID], Awaitable[UUID | None]], id_: UUID
) -> Location | None:
    for mode in Mode:
        pool = database.data(mode)
        if (tenant_id := await tenant_of(pool, id_)) is not None:
            return Location(mode, tenant_id, pool)
    return None
