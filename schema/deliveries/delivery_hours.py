"""Attempts added to their endpoints' hours. The protocol is drawn in migrations/data/0020_delivery_hours.sql."""

from typing import Final

from schema.connections.database import Executor, Pool, fetchval_with_timeout
from schema.queries import load

_SQL = load("delivery_hours")
_RECOUNT_SECONDS: Final = 6 * 3600.0


async def fold(connection: Executor, limit: int) -> int | None:
    """How many attempts were added; None while another session is at it."""
    count: int | None = await connection.fetchval(_SQL["fold"], limit)
    return count


async def fold_large_batch(pool: Pool, limit: int) -> int | None:
    """As `fold`, without the usual limit of time: after a restore all attempts that are there are one batch."""
    count: int | None = await fetchval_with_timeout(pool, _RECOUNT_SECONDS, _SQL["fold"], limit)
    return count
