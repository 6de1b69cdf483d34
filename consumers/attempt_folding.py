"""Adds recorded attempts to their endpoints' hourly counts. Every worker runs this; the database admits one at a time."""

import asyncio
import logging
from typing import Final

import asyncpg

from schema.connections.database import Pool
from schema.deliveries import delivery_hours
from schema.polling import sleep_unless, through_outages

_logger = logging.getLogger(__name__)
_PAUSE_S: Final = 2.0
"""Between batches. An endpoint's hour is then written once for all its attempts of these two seconds."""
_LONGEST_PAUSE_S: Final = 10.0
_GROWTH: Final = 1.5


class AttemptFolder:
    def __init__(self, pool: Pool, batch_size: int = 10_000) -> None:
        self._pool = pool
        self._batch_size = batch_size
        self.folded = 0

    async def run(self, stop: asyncio.Event) -> None:
        pause = _PAUSE_S
        while not stop.is_set():
            found = await through_outages(
                stop, "count attempts", self.step, conclusive=lambda count: count is not None
            )
            count = found or 0
            if count >= self._batch_size:
                continue
            pause = _PAUSE_S if count else min(_LONGEST_PAUSE_S, pause * _GROWTH)
            await sleep_unless(stop, pause)

    async def step(self) -> int | None:
        """Adds one batch. Returns how many attempts were added, or None while another worker is adding them."""
        try:
            count = await delivery_hours.fold(self._pool, self._batch_size)
        except asyncpg.QueryCanceledError:
            _logger.warning("recounting all attempts without the usual time limit; this may take hours")
            count = await delivery_hours.fold_large_batch(self._pool, self._batch_size)
        self.folded += count or 0
        return count
