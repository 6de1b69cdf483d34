"""The consumer of rollups: hourly counts and sums, and the movements of subscriptions, as deltas in its transaction.

What is counted is decided by told.py and movements.py; migrations/data/0017_rollups.sql has the tables and the views.

A parked event that is tried again later counts in its hour. But when its subscription has been told of since, the movements
then were movements from what was known without it, and stay so: it moves nothing more. A rebuild, which meets all events in
their order, makes that exact.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from consumers.rollup_deltas import Batch
from schema import rollups
from schema.database import Connection
from schema.log import LoggedEvent

_AT_A_TIME: Final = 50
"""About a millisecond's work: whoever sends in this process need not wait for a whole batch."""


class Rollups:
    """A projection."""

    name = rollups.ROLLUPS

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        batch = Batch()
        for first in range(0, len(events), _AT_A_TIME):
            batch.add(events[first : first + _AT_A_TIME])
            await asyncio.sleep(0)
        await rollups.hold(tx, generation)
        states = await rollups.states_of(tx, generation, batch.subscriptions())
        await rollups.add(tx, generation, batch.deltas(states))
