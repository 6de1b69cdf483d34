"""Monthly partitions, made a year ahead: without one for its month, an append fails."""

from schema.database import Executor
from schema.queries import load

_SQL = load("partitions")


async def ensure_partitions(connection: Executor) -> int:
    """Returns how many partitions it made."""
    made: int = await connection.fetchval(_SQL["ensure"])
    return made


async def partitions_ahead(connection: Executor) -> int:
    """Whole months from the next on for which every partitioned table has its partition."""
    months: int = await connection.fetchval(_SQL["ahead"])
    return months
