"""Adds attempts to their endpoints' hourly counts. The protocol is drawn in migrations/data/0020_delivery_hours.sql."""

from typing import Final

from schema.connections.database import Executor, Pool, fetchval_with_timeout
from schema.queries import load

_SQL = load("delivery_hours")
_RECOUNT_SECONDS: Final = 6 * 3600.0


async def fold(connection: Executor, limit: int) -> int | None:
    """How many attempts were added. None: another session is adding them."""
    count: int | None = await connection.fetchval(_SQL["fold"], limit)
    return count


async def fold_large_batch(pool: Pool, limit: int) -> int | None:
    """Does the same with a time limit of hours: after a restore, all existing attempts are one batch."""
    count: int | None = await fetchval_with_timeout(pool, _RECOUNT_SECONDS, _SQL["fold"], limit)
    return count
