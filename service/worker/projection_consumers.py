"""What follows the log beside fan-out: the projections, each with a consumer of its own in each mode.

A new one has its line in PROJECTIONS, and a migration that adds it; workers then run it, `duro consumers` and the metrics
tell of it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from consumers.activity.activity_consumer import Activity
from consumers.consumer import Consumer
from consumers.fanout import FANOUT
from consumers.projection_handlers import Projection, Serving
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Pool
from schema.read_models.activity_feed import ACTIVITY
from schema.read_models.rollups import ROLLUPS

PROJECTIONS: Final[tuple[Projection, ...]] = (Activity(), Rollups())
CONSUMERS: Final = (FANOUT, *(projection.name for projection in PROJECTIONS))
_GATHER_S: Final[Mapping[str, float]] = {ACTIVITY: 0.2, ROLLUPS: 1.0}
"""How much later than it could be a reader sees an event. Rollups write the present hour's rows anew in each batch: while
some transaction holds back the horizon no version of them goes and each look-up walks all. An hour of batches five times
a second makes ten rows cost 30 ms, one a second 2 ms."""


def by_name(name: str) -> Projection:
    """Raises KeyError."""
    return {projection.name: projection for projection in PROJECTIONS}[name]


def projecting(pool: Pool, others_first: Callable[[], bool]) -> dict[str, Consumer]:
    """A mode's consumers by name."""
    return {
        projection.name: Consumer(
            pool, Serving(projection, gather_s=_GATHER_S[projection.name], others_first=others_first)
        )
        for projection in PROJECTIONS
    }
