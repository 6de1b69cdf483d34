"""Creates monthly partitions a year ahead. Without the partition of its month, an insert fails."""

from datetime import datetime

import asyncpg

from schema.connections.database import Executor
from schema.errors import InvalidInput
from schema.queries import load

_SQL = load("partitions")


async def ensure_partitions(connection: Executor) -> int:
    """Returns how many partitions it created."""
    made: int = await connection.fetchval(_SQL["ensure"])
    return made


async def partitions_ahead(connection: Executor) -> int:
    """Whole months, from the next one on, for which every partitioned table has its partition."""
    months: int = await connection.fetchval(_SQL["ahead"])
    return months


async def ensure_past_partitions(connection: Executor, first: datetime) -> int:
    """Creates partitions from that time's month on; returns how many. Raises InvalidInput beyond ten years."""
    try:
        made: int = await connection.fetchval(_SQL["ensure_past"], first)
    except asyncpg.InvalidParameterValueError as error:
        raise InvalidInput(f"{error.message[:1].upper()}{error.message[1:]}.") from None
    return made
