"""Ends analysts' sessions that lifted their statement timeout and exceed it. Every worker runs this."""

import asyncio
import logging
from typing import Final

from schema.connections.database import Database
from schema.polling import sleep_unless, through_outages
from schema.queries import load

_SQL: Final = load("analysts")
_EVERY_S: Final = 5.0
_logger = logging.getLogger(__name__)


class AnalystWatch:
    def __init__(self, database: Database, every_s: float = _EVERY_S) -> None:
        self._core = database.core
        self._every_s = every_s
        self.ended = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "end runaway queries", self.step)
            await sleep_unless(stop, self._every_s)

    async def step(self) -> int:
        ended: int = await self._core.fetchval(_SQL["stop_runaway_queries"])
        if ended:
            self.ended += ended
            _logger.warning("ended %d analysts' sessions that ran past their limit", ended)
        return ended
