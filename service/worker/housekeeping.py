"""Creates partitions ahead of time, drops generations that a killed rebuild left, and opens months that a killed retention
run left sealed. Every worker runs this; the database admits one at a time.
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
_EVERY_S = 30.0  # a month left sealed refuses new records
_RETRY_S = 5.0  # less than the time after which a failing part makes the worker not ready
_HOURLY = 120  # rounds of _EVERY_S
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
        """Runs every job for each mode. A job that fails stops no other, and is retried soon."""
        hourly: set[tuple[str, Mode]] = set()
        for round_ in cycle(range(_HOURLY)):
            if round_ == 0:
                hourly |= set(product((_MAKE, _DROP), Mode))
            failed = set()
            for job in [*sorted(hourly), *product((_UNSEAL,), Mode)]:
                if stop.is_set():
                    return
                if not await self._do(*job):
                    failed.add(job)
            hourly &= failed
            await sleep_unless(stop, _RETRY_S if failed else _EVERY_S)

    async def _do(self, job: str, mode: Mode) -> bool:
        """Returns False when the job failed."""
        with carrying_on(f"{job} of mode {mode}"):
            await self._jobs[job](mode)
            return True
        return False

    async def ensure_partitions(self) -> None:
        """Creates missing partitions of both modes. Raises database errors."""
        for mode in Mode:
            await self._make_partitions(mode)

    async def _make_partitions(self, mode: Mode) -> None:
        if made := await ensure_partitions(self._database.background(mode)):
            _logger.info("created %d partitions in mode %s", made, mode)

    async def unseal(self, mode: Mode) -> None:
        if opened := await unseal_leftovers(self._database.background(mode)):
            _logger.warning(
                "opened %d partitions in mode %s that a duro retention run left sealed", opened, mode
            )

    async def _drop_generations(self, mode: Mode) -> None:
        """Drops generations that neither serve nor are being built. One that is being read stays until the next round."""
        for projection in PROJECTIONS:
            try:
                dropped = await drop_generations(self._database.background(mode), projection.name)
            except asyncpg.LockNotAvailableError:
                continue
            if dropped:
                _logger.info(
                    "dropped %d tables of old %s generations in mode %s", dropped, projection.name, mode
                )
