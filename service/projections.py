"""What follows the log beside fan-out: the projections, each with a consumer of its own in each mode.

A new one has its line in PROJECTIONS, and a migration that adds it; workers then run it, `duro consumers` and the metrics
tell of it.
"""

from collections.abc import Callable
from typing import Final

from consumers.activity import Activity
from consumers.consumer import Consumer
from consumers.fanout import FANOUT
from consumers.projecting import Projection, Serving
from consumers.rollups import Rollups
from schema.database import Pool

PROJECTIONS: Final[tuple[Projection, ...]] = (Activity(), Rollups())
CONSUMERS: Final = (FANOUT, *(projection.name for projection in PROJECTIONS))
_GATHER_S: Final = 0.2
"""How much later than it could be a reader sees an event."""


def by_name(name: str) -> Projection:
    """Raises KeyError."""
    return {projection.name: projection for projection in PROJECTIONS}[name]


def projecting(pool: Pool, others_first: Callable[[], bool]) -> dict[str, Consumer]:
    """A mode's consumers by name."""
    return {
        projection.name: Consumer(pool, Serving(projection, gather_s=_GATHER_S, others_first=others_first))
        for projection in PROJECTIONS
    }
