"""The consumer of rollups: hourly counts and sums, and the movements of subscriptions, as deltas in its transaction.

What is counted is decided by told.py and movements.py; migrations/data/0017_rollups.sql has the tables and the views.

A dead-lettered event that is tried again later counts in its hour. But when its subscription has been told of since, the movements
then were movements from what was known without it, and stay so: it moves nothing more. A rebuild, which meets all events in
their order, makes that exact.
"""

from collections.abc import Sequence

from consumers.projecting import in_turns
from consumers.rollup_deltas import Batch
from schema import rollups
from schema.database import Connection
from schema.log import LoggedEvent


class Rollups:
    """A projection."""

    name = rollups.ROLLUPS

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        batch = Batch()
        async for few in in_turns(events):
            batch.add(few)
        states = await rollups.states_of(tx, generation, batch.subscriptions())
        await rollups.add(tx, generation, batch.deltas(states))
