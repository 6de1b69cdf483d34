"""Reads facts from the database on request and caches them.

      scrape ──► cached and recent? ──yes──► the cached facts
                    │ no
                    ▼
                 being read? ──yes──► wait for that reading
                    │ no
                    ▼
                 core, sandbox, live: each on one connection, concurrently, for at most ANSWER_WITHIN_S

However many scrapes there are, the database is read at most once per KEPT_FOR_S, and less often when reading is slow: it may take
1 % of the time, so after a reading of 0.2 s the next one comes 20 s later. A schema that could not be read is left out, for
KEPT_FOR_S only: one slow reading must not look like a minute of outage. If none could be read, nothing is cached.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar

from schema.billing import billing_cases
from schema.billing.billing_cases import BillingStatus
from schema.connections.database import Database, Pool
from schema.deliveries.deliveries import Lane
from schema.event_log import log
from schema.event_log.log import ConsumerStatus
from schema.event_log.partitions import partitions_ahead
from schema.failures import PartFailures
from schema.modes import Mode
from schema.read_models import metrics
from schema.read_models.metrics import (
    EndpointsDue,
    InactiveEndpoints,
    OldestTransaction,
    UnhealthyEndpoints,
    WaitingDeliveries,
)
from service.worker.projection_consumers import CONSUMERS

T = TypeVar("T")
KEPT_FOR_S: Final = 5.0
KEPT_FOR_S_AT_MOST: Final = 60.0
ANSWER_WITHIN_S: Final = 5.0
_SHARE_OF_TIME: Final = 0.01


@dataclass(frozen=True, slots=True)
class ModeFacts:
    consumers: Sequence[ConsumerStatus]
    partitions_ahead: int
    waiting: Mapping[Lane, WaitingDeliveries]
    endpoints_due: Mapping[Lane, Sequence[EndpointsDue]]
    unhealthy_endpoints: UnhealthyEndpoints
    retries_paused: bool
    billing: BillingStatus

    @classmethod
    async def read(cls, pool: Pool) -> "ModeFacts":
        async with pool.acquire() as connection:
            return cls(
                await log.consumer_status(connection, CONSUMERS),
                await partitions_ahead(connection),
                {lane: await metrics.waiting(connection, lane) for lane in Lane},
                {lane: await metrics.endpoints_due(connection, lane) for lane in Lane},
                await metrics.unhealthy_endpoints(connection),
                await metrics.retries_paused(connection),
                await billing_cases.status(connection, await billing_cases.clock(connection)),
            )


@dataclass(frozen=True, slots=True)
class CoreFacts:
    inactive_endpoints: Mapping[str, InactiveEndpoints]
    """By mode; a mode without any is absent."""
    oldest_transaction: OldestTransaction
    workers: int

    @classmethod
    async def read(cls, pool: Pool) -> "CoreFacts":
        async with pool.acquire() as connection:
            return cls(
                {of.mode: of for of in await metrics.inactive_endpoints(connection)},
                await metrics.oldest_transaction(connection),
                await metrics.workers(connection),
            )


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    core: CoreFacts | None
    """None if core could not be read; a mode that could not be read is absent below."""
    modes: Mapping[Mode, ModeFacts]
    read_at: float
    """Time on the monotonic clock."""
    took_s: float

    @property
    def any(self) -> bool:
        return self.core is not None or bool(self.modes)

    @property
    def complete(self) -> bool:
        return self.core is not None and len(self.modes) == len(Mode)


class FactsReader:
    def __init__(self, database: Database, part: PartFailures) -> None:
        """`part` receives its failures, which do not affect the worker's work."""
        self._database = database
        self._part = part
        self._last: DatabaseFacts | None = None
        self._read_again_at = 0.0
        self._reading: asyncio.Task[DatabaseFacts] | None = None

    async def facts(self) -> DatabaseFacts:
        """Returns within ANSWER_WITHIN_S. Raises only CancelledError."""
        if self._last is not None and monotonic() < self._read_again_at:
            return self._last
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading)  # other scrapes may wait for it

    async def _read(self) -> DatabaseFacts:
        started = monotonic()
        reading_core = asyncio.create_task(CoreFacts.read(self._database.core))
        reading = {
            mode: asyncio.create_task(ModeFacts.read(self._database.background(mode))) for mode in Mode
        }
        tasks: list[asyncio.Task[Any]] = [reading_core, *reading.values()]
        for task in tasks:
            task.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # retrieves the exception, or asyncio logs it
        try:
            await asyncio.wait(tasks, timeout=ANSWER_WITHIN_S)
            modes = {mode: _result(task) for mode, task in reading.items()}
            now = monotonic()
            facts = DatabaseFacts(
                _result(reading_core),
                {mode: known for mode, known in modes.items() if known is not None},
                now,
                now - started,
            )
        finally:
            for task in tasks:
                task.cancel()  # not awaited: with a silent server the driver takes long
            self._reading = None
        errors = [error for task in tasks if (error := _why_not(task))]
        if errors:
            self._part.failed("read the database's facts", errors[0], harmless=True)
        else:
            self._part.succeeded("read the database's facts")
        self._last = facts if facts.any else None
        self._read_again_at = now + kept_for_s(facts.took_s, complete=facts.complete)
        return facts


def kept_for_s(took_s: float, *, complete: bool) -> float:
    longest = KEPT_FOR_S_AT_MOST if complete else KEPT_FOR_S
    return min(longest, max(KEPT_FOR_S, took_s / _SHARE_OF_TIME))


def _result(task: asyncio.Task[T]) -> T | None:
    return None if _why_not(task) else task.result()


def _why_not(task: asyncio.Task[Any]) -> BaseException | None:
    """Returns why there is no result, or nothing."""
    if not task.done() or task.cancelled():
        return TimeoutError()
    return task.exception()
