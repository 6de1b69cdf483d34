"""Read models built from the log. Each has generations: one serves, and another may be under construction beside it. The
protocol is drawn in migrations/data/0015_projections.sql.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schema.connections.database import Executor, Pool
from schema.errors import Unavailable
from schema.queries import load

_SQL = load("projections")
REBUILD: Final = "_rebuild"


def builder(projection: str) -> str:
    """The name of the consumer that rebuilds the projection."""
    return projection + REBUILD


@dataclass(frozen=True, slots=True)
class Generations:
    serving: int
    building: int | None


async def generations(tx: Executor, projection: str) -> Generations:
    """Read it in the transaction that locks the writer's cursor; otherwise it may be out of date.

    Raises Unavailable if the database has lost it. That is no fault of the events at hand, as LookupError would be.
    """
    row = await tx.fetchrow(_SQL["generations"], projection)
    if row is None:
        raise Unavailable(
            f"The database lacks the row of {projection} in the table projections, which its migrations made: restore it."
        )
    return Generations(*row)


@dataclass(frozen=True, slots=True)
class RebuildStart:
    generation: int
    resumed: bool


async def begin_rebuild(pool: Pool, projection: str) -> RebuildStart:
    row = await pool.fetchrow(_SQL["begin_rebuild"], projection)
    assert row is not None
    return RebuildStart(*row)


async def finish_rebuild(pool: Pool, projection: str) -> bool:
    """False while the serving generation is ahead of the built one, and when none is being built."""
    finished: bool = await pool.fetchval(_SQL["finish_rebuild"], projection)
    return finished


async def abandon_rebuild(pool: Pool, projection: str) -> bool:
    abandoned: bool = await pool.fetchval(_SQL["abandon_rebuild"], projection)
    return abandoned


async def drop_generations(pool: Pool, projection: str) -> int:
    """Drops generations that neither serve nor are being built. Raises a transient error while a session reads one."""
    dropped: int = await pool.fetchval(_SQL["drop_generations"], projection)
    return dropped


async def as_of(connection: Executor, consumer: str) -> datetime:
    """The time before which no committed event is missing, except dead-lettered ones. Now, if none is missing."""
    time: datetime = await connection.fetchval(_SQL["as_of"], consumer)
    return time


@dataclass(frozen=True, slots=True)
class ConsumerProgress:
    before_first: int
    """The position before the first event that retention has left."""
    pos: int
    last_pos: int
    dead: int


async def consumer_progress(connection: Executor, consumer: str) -> ConsumerProgress:
    row = await connection.fetchrow(_SQL["consumer_progress"], consumer)
    assert row is not None
    return ConsumerProgress(*row)
