"""What a worker does with the log, one step at a time and without sending anything."""

from datetime import timedelta

from consumers.consumer import Consumer
from consumers.fanout import FanOut, NoSlots
from schema.connections.database import Database
from schema.modes import Mode
from tests.support.events import sequence_all


async def fan_out(database: Database, mode: Mode = Mode.TEST) -> None:
    """Every event recorded so far gets its position and its deliveries."""
    pool = database.data(mode)
    await sequence_all(pool)
    consumer = Consumer(pool, FanOut(NoSlots(), lambda: 0, timedelta(0)))
    while await consumer.step():
        pass


async def settle_all(database: Database, status: str, mode: Mode = Mode.TEST) -> None:
    """As if attempts had been made."""
    await database.data(mode).execute(
        "UPDATE webhook_deliveries SET status = $1, due_at = NULL, retry_at = NULL, settled_at = now()",
        status,
    )
