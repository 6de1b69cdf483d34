"""The consumer of the rollups: adds hourly counts, sums and subscription movements in the cursor's transaction.

event_facts.py and movements.py decide what is counted; migrations/data/0018_rollups.sql has the tables.

A dead-lettered event that is retried later is counted in its own hour. If a later event of its subscription was applied
before, the retried event adds no movement: the later movement was computed without it. A rebuild, which reads all events
in order, makes the movements exact.
"""

from collections.abc import Sequence

from consumers.projection_handlers import in_chunks
from consumers.rollups.rollup_deltas import DeltaBatch
from schema.connections.database import Connection
from schema.event_log.log import LoggedEvent
from schema.read_models import rollups


class Rollups:
    """A projection."""

    name = rollups.ROLLUPS

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        batch = DeltaBatch()
        async for chunk in in_chunks(events):
            batch.add(chunk)
        states = await rollups.read_states(tx, generation, batch.subscriptions())
        await rollups.add(tx, generation, batch.deltas(states))
