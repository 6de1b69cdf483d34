"""Keeps partitions well ahead, drops what a rebuild that was killed left behind, and opens what a retention that was killed
left sealed. Every worker does it; the database lets one at a time in.
"""

import asyncio
import logging
from itertools import cycle, product

import asyncpg

from schema.database import Database
from schema.modes import Mode
from schema.partitions import ensure_partitions
from schema.polling import sleep_unless, through_outages
from schema.projections import drop_generations
from schema.retiring import unseal_leftovers
from service.projections import PROJECTIONS

_logger = logging.getLogger(__name__)
_EVERY_S = 30.0  # a sealed month refuses what is recorded in it
_HOURLY = 120


class Housekeeping:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        for turn in cycle(range(_HOURLY)):
            if stop.is_set():
                return
            if turn == 0:
                await through_outages(stop, "make partitions", self.ensure_partitions)
                await through_outages(stop, "drop old generations", self.drop_generations)
            await through_outages(stop, "unseal months", self.unseal_leftovers)
            await sleep_unless(stop, _EVERY_S)

    async def ensure_partitions(self) -> None:
        for mode in Mode:
            if made := await ensure_partitions(self._database.background(mode)):
                _logger.info("made %d partitions for %s", made, mode)

    async def unseal_leftovers(self) -> None:
        for mode in Mode:
            if opened := await unseal_leftovers(self._database.background(mode)):
                _logger.warning(
                    "opened %d partitions of %s that a duro retention run left sealed", opened, mode
                )

    async def drop_generations(self) -> None:
        """Of projections, that neither serve nor are being built. Whoever reads one keeps it until the next time."""
        for mode, projection in product(Mode, PROJECTIONS):
            try:
                dropped = await drop_generations(self._database.background(mode), projection.name)
            except asyncpg.LockNotAvailableError:
                continue
            if dropped:
                _logger.info("dropped %d tables of a former %s for %s", dropped, projection.name, mode)
