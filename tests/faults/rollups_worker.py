"""`python -m tests.faults.rollups_worker BATCH`: a process that follows the sandbox's log with rollups, in batches of that
size. Says a line for each batch when it has written it and not committed yet.
"""

import asyncio
import json
import os
import sys
from base64 import b64decode
from collections.abc import Sequence

from consumers.consumer import Consumer
from consumers.projecting import Serving
from consumers.rollups import Rollups
from schema.database import Connection, Database
from schema.log import LoggedEvent
from schema.modes import Mode


class Announcing(Rollups):
    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        await super().project(tx, generation, events)
        sys.stdout.write(json.dumps({"written": events[-1].pos}) + "\n")
        sys.stdout.flush()


async def work(url: str, key: bytes, batch_size: int) -> None:
    async with Database.open(url, key, name="rollups") as database:
        consumer = Consumer(database.data(Mode.TEST), Serving(Announcing()), batch_size)
        await consumer.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(
        work(os.environ["DURO_DATABASE_URL"], b64decode(os.environ["DURO_SECRET_KEY"]), int(sys.argv[1]))
    )
