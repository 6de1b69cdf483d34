"""Attempts added to their endpoints' hours. The protocol is drawn in migrations/data/0019_delivery_hours.sql."""

from typing import Final

from schema.database import Executor, Pool
from schema.queries import load

_SQL = load("delivery_hours")
_RECOUNT_SECONDS: Final = 6 * 3600.0


async def fold(connection: Executor, limit: int) -> int | None:
    """How many attempts were added; None while another session is at it."""
    count: int | None = await connection.fetchval(_SQL["fold"], limit)
    return count


async def fold_patiently(pool: Pool, limit: int) -> int | None:
    """As `fold`, without the usual limit of time: after a restore all attempts that are there are one batch."""
    async with pool.acquire() as tx, tx.transaction():
        await tx.execute(_SQL["no_statement_timeout"])
        count: int | None = await tx.fetchval(_SQL["fold"], limit, timeout=_RECOUNT_SECONDS)
        return count
