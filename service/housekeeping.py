"""Keeps partitions well ahead, and drops what a rebuild that was killed left behind. Every worker does it; the database
lets one at a time in.
"""

import asyncio
import logging
from itertools import product

import asyncpg

from schema.database import Database
from schema.modes import Mode
from schema.partitions import ensure_partitions
from schema.polling import sleep_unless, through_outages
from schema.projections import drop_generations
from service.projections import PROJECTIONS

_logger = logging.getLogger(__name__)
_EVERY_S = 3600.0


class Housekeeping:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "housekeeping", self.ensure_partitions)
            await through_outages(stop, "housekeeping", self.drop_generations)
            await sleep_unless(stop, _EVERY_S)

    async def ensure_partitions(self) -> None:
        for mode in Mode:
            if made := await ensure_partitions(self._database.data(mode)):
                _logger.info("made %d partitions for %s", made, mode)

    async def drop_generations(self) -> None:
        """Of projections, that neither serve nor are being built. Whoever reads one keeps it until the next time."""
        for mode, projection in product(Mode, PROJECTIONS):
            try:
                dropped = await drop_generations(self._database.data(mode), projection.name)
            except asyncpg.LockNotAvailableError:
                continue
            if dropped:
                _logger.info("dropped %d tables of a former %s for %s", dropped, projection.name, mode)
