"""Read models made of the log, each in generations: one serves, and one may be being built beside it. The protocol is
drawn in migrations/data/0015_projections.sql.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schema.connections.database import Executor, Pool
from schema.queries import load

_SQL = load("projections")
REBUILD: Final = "_rebuild"


def builder(projection: str) -> str:
    """The name of the consumer that builds it anew."""
    return projection + REBUILD


@dataclass(frozen=True, slots=True)
class Generations:
    serving: int
    building: int | None


async def generations(tx: Executor, projection: str) -> Generations:
    """To be asked inside the transaction that holds the writer's cursor; else it may be out of date.

    Raises LookupError for one that no migration has made.
    """
    row = await tx.fetchrow(_SQL["generations"], projection)
    if row is None:
        raise LookupError(f"no migration has made the projection {projection!r}")
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
    """False while what serves is ahead of what was built, and when nothing is being built."""
    finished: bool = await pool.fetchval(_SQL["finish_rebuild"], projection)
    return finished


async def abandon_rebuild(pool: Pool, projection: str) -> bool:
    abandoned: bool = await pool.fetchval(_SQL["abandon_rebuild"], projection)
    return abandoned


async def drop_generations(pool: Pool, projection: str) -> int:
    """Raises what is an error of the moment while somebody reads one of them."""
    dropped: int = await pool.fetchval(_SQL["drop_generations"], projection)
    return dropped


async def as_of(connection: Executor, consumer: str) -> datetime:
    """No committed event before this time is missing, except dead-lettered ones. Now, when nothing is missing."""
    moment: datetime = await connection.fetchval(_SQL["as_of"], consumer)
    return moment


@dataclass(frozen=True, slots=True)
class ConsumerProgress:
    before_first: int
    """The position before the first one that is still there."""
    pos: int
    last_pos: int
    dead: int


async def consumer_progress(connection: Executor, consumer: str) -> ConsumerProgress:
    row = await connection.fetchrow(_SQL["consumer_progress"], consumer)
    assert row is not None
    return ConsumerProgress(*row)
