"""Keeps partitions well ahead, drops what a rebuild that was killed left behind, and opens what a retention that was killed
left sealed. Every worker does it; the database lets one at a time in.
"""

import asyncio
import logging
from itertools import cycle, product
from typing import Final

import asyncpg

from schema.connections.database import Database
from schema.event_log.partitions import ensure_partitions
from schema.failures import carrying_on
from schema.modes import Mode
from schema.polling import sleep_unless
from schema.read_models.projections import drop_generations
from schema.retention.retention_run import unseal_leftovers
from service.worker.projection_consumers import PROJECTIONS

_logger = logging.getLogger(__name__)
_EVERY_S = 30.0  # a sealed month refuses what is recorded in it
_AGAIN_S = 5.0  # less than it takes to be not ready
_HOURLY = 120
_MAKE: Final = "make partitions"
_DROP: Final = "drop old generations"
_UNSEAL: Final = "unseal months"


class Housekeeping:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = {
            _MAKE: self._make_partitions,
            _DROP: self._drop_generations,
            _UNSEAL: self.unseal,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """What fails in one mode keeps nothing else from being done, and is tried again soon."""
        hourly: set[tuple[str, Mode]] = set()
        for turn in cycle(range(_HOURLY)):
            if turn == 0:
                hourly |= set(product((_MAKE, _DROP), Mode))
            undone = set()
            for job in [*sorted(hourly), *product((_UNSEAL,), Mode)]:
                if stop.is_set():
                    return
                if not await self._do(*job):
                    undone.add(job)
            hourly &= undone
            await sleep_unless(stop, _AGAIN_S if undone else _EVERY_S)

    async def _do(self, job: str, mode: Mode) -> bool:
        """Whether it did not fail."""
        with carrying_on(f"{job} of mode {mode}"):
            await self._jobs[job](mode)
            return True
        return False

    async def ensure_partitions(self) -> None:
        """Of both modes. Raises what the database raises."""
        for mode in Mode:
            await self._make_partitions(mode)

    async def _make_partitions(self, mode: Mode) -> None:
        if made := await ensure_partitions(self._database.background(mode)):
            _logger.info("made %d partitions for %s", made, mode)

    async def unseal(self, mode: Mode) -> None:
        if opened := await unseal_leftovers(self._database.background(mode)):
            _logger.warning("opened %d partitions of %s that a duro retention run left sealed", opened, mode)

    async def _drop_generations(self, mode: Mode) -> None:
        """Of projections, that neither serve nor are being built. Whoever reads one keeps it until the next time."""
        for projection in PROJECTIONS:
            try:
                dropped = await drop_generations(self._database.background(mode), projection.name)
            except asyncpg.LockNotAvailableError:
                continue
            if dropped:
                _logger.info("dropped %d tables of a former %s for %s", dropped, projection.name, mode)
