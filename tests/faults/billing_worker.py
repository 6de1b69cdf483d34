"""`python -m tests.faults.billing_worker SOCKET`: runs the billing engines of both modes by the database's clock.

It charges through the gateway at SOCKET, prints its pid once it runs, and ends at SIGTERM.
"""

import asyncio
import json
import os
import sys
from base64 import b64decode
from itertools import chain

from schema.connections.database import Database
from schema.modes import Mode
from service.billing.engine import engine
from service.supervisor import Supervisor
from service.worker.signals import stop_on_signals
from tests.faults.remote_gateway import RemoteGateway


async def work(url: str, key: bytes, socket: str) -> None:
    stop, pid = stop_on_signals(), os.getpid()
    async with Database.open(url, key, name="billing") as database:
        engines = [engine(database, mode, RemoteGateway(socket, pid)).stages() for mode in Mode]
        supervisor = Supervisor([list(chain(*parts)) for parts in zip(*engines, strict=True)])
        sys.stdout.write(json.dumps({"worker": pid}) + "\n")
        sys.stdout.flush()
        await supervisor.run(stop)


if __name__ == "__main__":
    asyncio.run(work(os.environ["DURO_DATABASE_URL"], b64decode(os.environ["DURO_SECRET_KEY"]), sys.argv[1]))
