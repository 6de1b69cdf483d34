"""Lists one tenant's deliveries in one mode, and shows one with its attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from schema.connections.database import Executor
from schema.deliveries.deliveries import Attempt
from schema.errors import InvalidInput, NotFound
from schema.ids import DELIVERY, format_id
from schema.pages import After, Page, page
from schema.queries import load

_SQL = load("delivery_history")
STATUSES: Final = ("pending", "delivered", "failed", "skipped")
_UNDELIVERED: Final = ("failed", "skipped")


@dataclass(frozen=True, slots=True)
class Delivery:
    id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    """The event's."""
    status: str
    attempts: int
    due_at: datetime | None
    settled_at: datetime | None


@dataclass(slots=True)
class AttemptDetail(Attempt):
    replay: bool
    settled: bool
    """False when its worker had been declared dead: another attempt set the delivery's state."""


@dataclass(frozen=True, slots=True)
class DeliveryDetail:
    id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    created_at: datetime
    status: str
    attempts_made: int
    schedule_attempts: int
    replays: int
    due_at: datetime | None
    retry_at: datetime | None
    settled_at: datetime | None
    in_flight: bool
    attempts: Sequence[AttemptDetail]


async def tenant_of(connection: Executor, delivery_id: UUID) -> UUID | None:
    tenant_id: UUID | None = await connection.fetchval(_SQL["locate"], delivery_id)
    return tenant_id


async def list_deliveries(
    connection: Executor,
    tenant_id: UUID,
    status: str | None,
    endpoint_id: UUID | None,
    after: After,
    limit: int,
) -> Page[Delivery]:
    if status is not None and status not in STATUSES:
        raise InvalidInput(f"{status!r} is not a status; use one of {', '.join(STATUSES)}.")
    statement = _SQL["list_undelivered" if status in _UNDELIVERED else "list"]
    rows = await connection.fetch(
        statement, tenant_id, status, endpoint_id, after.created_at, after.id, limit + 1
    )
    return page([Delivery(**row) for row in rows], limit)


async def show(connection: Executor, tenant_id: UUID, delivery_id: UUID) -> DeliveryDetail:
    row = await connection.fetchrow(_SQL["show"], tenant_id, delivery_id)
    if row is None:
        raise NotFound(
            f"There is no delivery {format_id(DELIVERY, delivery_id)} of this tenant in this mode."
        )
    attempts = await connection.fetch(_SQL["attempts"], tenant_id, delivery_id, row["created_at"])
    if (
        attempts and row["settled_at"] is None
    ):  # the last attempt may have been settled between the two queries
        row = await connection.fetchrow(_SQL["show"], tenant_id, delivery_id) or row
    return DeliveryDetail(**row, attempts=[AttemptDetail(**attempt) for attempt in attempts])
