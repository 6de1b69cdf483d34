"""Keeps partitions well ahead. Every worker does it; the database lets one at a time in."""

import asyncio
import logging

from schema.database import Database
from schema.modes import Mode
from schema.partitions import ensure_partitions
from schema.polling import sleep_unless, through_outages

_logger = logging.getLogger(__name__)
_EVERY_S = 3600.0


class Housekeeping:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "housekeeping", self.ensure_partitions)
            await sleep_unless(stop, _EVERY_S)

    async def ensure_partitions(self) -> None:
        for mode in Mode:
            if made := await ensure_partitions(self._database.data(mode)):
                _logger.info("made %d partitions for %s", made, mode)
