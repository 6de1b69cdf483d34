"""Gives committed events their positions. Every worker runs this; the database admits one at a time."""

import asyncio
import logging
from collections.abc import Callable

import asyncpg

from schema.connections.database import Pool
from schema.event_log import log
from schema.polling import PollTimer, through_outages

_logger = logging.getLogger(__name__)


class Sequencer:
    def __init__(self, pool: Pool, wake: Callable[[], None], batch_size: int = 1000) -> None:
        """`wake` is called after each batch, so that this process's consumers do not wait for their next poll."""
        self._pool = pool
        self._wake = wake
        self._batch_size = batch_size
        self._poll_timer = PollTimer(first=0.002, most=0.025)
        self.sequenced = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await through_outages(
                stop, "sequence events", self.step, conclusive=lambda count: count is not None
            )
            await self._poll_timer.wait(found=bool(found))

    async def step(self) -> int | None:
        """Sequences one batch. Returns how many events got a position, or None while another worker is sequencing."""
        try:
            count = await log.sequence(self._pool, self._batch_size)
        except asyncpg.QueryCanceledError:
            _logger.warning("sequencing a very large batch without the usual time limit; this may take hours")
            count = await log.sequence_large_batch(self._pool, self._batch_size)
        if count:
            self.sequenced += count
            self._wake()
        return count
