"""Checks of the log's promises by the database itself. Each function reads one mode."""

from collections.abc import Sequence
from uuid import UUID

from schema.connections.database import Executor
from schema.queries import load

_SQL = load("audit")


async def last_position(connection: Executor) -> int:
    return int(await connection.fetchval(_SQL["last_position"]))


async def positions_missing(connection: Executor, after: int) -> int:
    """Counts missing positions between `after` and the log's end; a dense log has none."""
    return int(await connection.fetchval(_SQL["positions_missing"], after))


async def without_position(connection: Executor, events: Sequence[UUID]) -> list[UUID]:
    return [row["id"] for row in await connection.fetch(_SQL["without_position"], events)]


async def recorded(connection: Executor, events: Sequence[UUID]) -> list[UUID]:
    """Returns those of `events` that exist."""
    return [row["id"] for row in await connection.fetch(_SQL["recorded"], events)]


async def deliveries_by_status(connection: Executor, tenants: Sequence[UUID]) -> dict[str, int]:
    return {
        row["status"]: row["count"] for row in await connection.fetch(_SQL["deliveries_by_status"], tenants)
    }
