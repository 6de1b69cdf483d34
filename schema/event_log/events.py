"""Records, lists and shows the events of one tenant in one mode."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from schema.connections.database import Executor
from schema.connections.error_kinds import describe, is_unreadable
from schema.errors import InvalidInput, NotFound, Unavailable
from schema.ids import EVENT, format_id
from schema.pages import After, Page, page
from schema.queries import load

_SQL = load("events")


@dataclass(frozen=True, slots=True)
class Event:
    id: UUID
    type: str
    data: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EventDelivery:
    id: UUID
    endpoint_id: UUID
    status: str
    attempts: int


@dataclass(frozen=True, slots=True)
class EventDetail:
    id: UUID
    type: str
    data: str
    created_at: datetime
    pos: int | None
    """None until the log has a position for it."""
    deliveries: Sequence[EventDelivery]


async def record(tx: Executor, tenant_id: UUID, type_: str, data: Mapping[str, Any] | str) -> UUID:
    """Records an event. `data` is a mapping, or JSON text that is passed on unchanged.

    Raises InvalidInput with the database's own sentence for an unknown type or tenant, and for data that is not a
    JSON object or is too large.
    """
    text = data if isinstance(data, str) else orjson.dumps(data).decode()
    try:
        event_id: UUID = await tx.fetchval(_SQL["record"], tenant_id, type_, text)
    except asyncpg.CheckViolationError as error:
        if "no partition" in error.message:
            raise Unavailable(
                "The log has no partition for this month: start a worker, or run duro migrate."
            ) from None
        raise InvalidInput(_sentence(error)) from None
    except asyncpg.ForeignKeyViolationError as error:
        raise InvalidInput(_sentence(error)) from None
    except (
        asyncpg.InvalidTextRepresentationError,
        asyncpg.UntranslatableCharacterError,
        asyncpg.DataError,
    ) as error:
        raise InvalidInput(
            f"Event data is not JSON that Postgres can hold: {error.detail or error.message}"
        ) from None
    return event_id


def _sentence(error: asyncpg.PostgresError) -> str:
    message = f"{error.message[:1].upper()}{error.message[1:]}."
    return f"{message} {error.hint}" if error.hint else message


@contextmanager
def _damage_explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_unreadable(error):
            raise
        raise Unavailable(
            f"{what} cannot be read, for its stored data is damaged ({describe(error)}): "
            "correct its row in its partition of the table events."
        ) from None


async def list_events(
    connection: Executor, tenant_id: UUID, type_: str | None, after: After, limit: int
) -> Page[Event]:
    with _damage_explained("An event of this page"):
        rows = await connection.fetch(_SQL["list"], tenant_id, type_, after.created_at, after.id, limit + 1)
    return page([Event(**row) for row in rows], limit)


async def tenant_of(connection: Executor, event_id: UUID) -> UUID | None:
    tenant_id: UUID | None = await connection.fetchval(_SQL["locate"], event_id)
    return tenant_id


async def show(connection: Executor, tenant_id: UUID, event_id: UUID) -> EventDetail:
    with _damage_explained(f"Event {format_id(EVENT, event_id)}"):
        row = await connection.fetchrow(_SQL["show"], tenant_id, event_id)
    if row is None:
        raise NotFound(f"There is no event {format_id(EVENT, event_id)} of this tenant in this mode.")
    fanned_out = await connection.fetch(_SQL["deliveries_of"], tenant_id, event_id, row["created_at"])
    return EventDetail(**row, deliveries=[EventDelivery(**delivery) for delivery in fanned_out])


async def type_names(connection: Executor) -> list[str]:
    return [row["name"] for row in await connection.fetch(_SQL["types"])]
