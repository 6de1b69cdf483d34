"""`python -m tests.faults.rollups_worker BATCH COUNT HOLD`: applies the sandbox's log to rollups in batches of that size.

It prints a line when it has written but not committed the COUNT-th batch. With HOLD it waits there.
"""

import asyncio
import json
import os
import sys
from base64 import b64decode
from collections.abc import Sequence

from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Connection, Database
from schema.event_log.log import LoggedEvent
from schema.modes import Mode


class Announcing(Rollups):
    def __init__(self, count: int, *, hold: bool) -> None:
        self._left = count
        self._hold = hold

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        await super().project(tx, generation, events)
        self._left -= 1
        if self._left == 0:
            sys.stdout.write(json.dumps({"written": events[-1].pos}) + "\n")
            sys.stdout.flush()
            if self._hold:
                await asyncio.Event().wait()


async def work(url: str, key: bytes, batch_size: int, projection: Rollups) -> None:
    async with Database.open(url, key, name="rollups") as database:
        consumer = Consumer(database.data(Mode.TEST), ProjectionHandler(projection), batch_size)
        await consumer.run(asyncio.Event())


if __name__ == "__main__":
    size, batches, hold = (int(argument) for argument in sys.argv[1:])
    secret = b64decode(os.environ["DURO_SECRET_KEY"])
    asyncio.run(work(os.environ["DURO_DATABASE_URL"], secret, size, Announcing(batches, hold=bool(hold))))
