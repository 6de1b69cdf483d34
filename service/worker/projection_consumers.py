"""The projections. Each has its own consumer in each mode, beside fan-out.

A new projection needs an entry in PROJECTIONS and a migration that adds it. Workers then run it, and `duro consumers` and the
metrics report it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from consumers.activity.activity_consumer import Activity
from consumers.consumer import Consumer
from consumers.fanout import FANOUT
from consumers.projection_handlers import Projection, ProjectionHandler
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Pool
from schema.read_models.activity_feed import ACTIVITY
from schema.read_models.rollups import ROLLUPS

PROJECTIONS: Final[tuple[Projection, ...]] = (Activity(), Rollups())
CONSUMERS: Final = (FANOUT, *(projection.name for projection in PROJECTIONS))
_GATHER_S: Final[Mapping[str, float]] = {ACTIVITY: 0.2, ROLLUPS: 1.0}
"""The delay that is added before a reader sees an event. Each batch of rollups updates the current hour's rows: while a
transaction holds the horizon back, old versions stay and each lookup walks all of them. After an hour of five batches per
second, a lookup of ten rows takes 30 ms; with one batch per second, 2 ms."""


def by_name(name: str) -> Projection:
    """Raises KeyError."""
    return {projection.name: projection for projection in PROJECTIONS}[name]


def projecting(pool: Pool, others_first: Callable[[], bool]) -> dict[str, Consumer]:
    """A mode's consumers by name."""
    return {
        projection.name: Consumer(
            pool,
            ProjectionHandler(projection, gather_s=_GATHER_S[projection.name], others_first=others_first),
        )
        for projection in PROJECTIONS
    }
