"""Retries a consumer's dead-lettered events, each in a transaction of its own."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final
from uuid import UUID

from consumers.consumer import Consumer, Handler
from consumers.fanout import FANOUT, FanOut, NoSlots
from consumers.projection_handlers import ProjectionHandler
from schema.connections.database import Pool
from schema.connections.error_kinds import describe, is_query_canceled, is_transient, is_unreadable
from schema.event_log import log
from schema.event_log.log import DeadEvent
from service.worker.projection_consumers import PROJECTIONS

_STEP: Final = 100
_UNREADABLE: Final = (
    "the event's stored data still cannot be read ({}): as the owner, correct its row in its partition of "
    "the table events, with the trigger append_only disabled during that; then retry"
)


# Deliveries from here wait in the table, because this process has no worker id to claim them with.
_HANDLERS: Final[Mapping[str, Callable[[], Handler]]] = {
    FANOUT: lambda: FanOut(NoSlots(), lambda: 0),
    **{projection.name: partial(ProjectionHandler, projection) for projection in PROJECTIONS},
}


class RetryOutcome(StrEnum):
    APPLIED = "applied"
    FAILED = "failed"
    """It stays dead-lettered."""
    GONE = "gone"
    """Another process has retried it."""


@dataclass(frozen=True, slots=True)
class RetryResult:
    consumer: str
    pos: int
    event_id: UUID
    result: RetryOutcome
    error: str | None = None


async def retry_dead_events(pool: Pool, consumer: str, only: int | None = None) -> AsyncIterator[RetryResult]:
    """Retries them in the order of the log; `only` selects one position. Raises transient errors."""
    applying = Consumer(pool, _HANDLERS[consumer]())
    async for dead in _dead_events(pool, consumer, only):
        yield await _retry(pool, consumer, applying, dead)


async def _dead_events(pool: Pool, consumer: str, only: int | None) -> AsyncIterator[DeadEvent]:
    if only is not None:
        for dead in await log.dead_events(pool, consumer, only - 1, 1):
            if dead.pos == only:
                yield dead
        return
    after = 0
    while step := await log.dead_events(pool, consumer, after, _STEP):
        for dead in step:
            yield dead
        after = step[-1].pos


async def _retry(pool: Pool, name: str, consumer: Consumer, dead: DeadEvent) -> RetryResult:
    result = partial(RetryResult, name, dead.pos, dead.event_id)
    try:
        event = await log.read_one(pool, dead.pos)
    except Exception as error:
        if not is_unreadable(error):
            raise
        return result(RetryOutcome.FAILED, _UNREADABLE.format(describe(error)))
    if event is None:
        return result(RetryOutcome.FAILED, "the event is no longer in the log")
    try:
        applied = await consumer.retry_dead_event(event)
    except Exception as error:
        if is_transient(error) and not is_query_canceled(error):
            raise
        return result(RetryOutcome.FAILED, describe(error))
    return result(RetryOutcome.APPLIED if applied else RetryOutcome.GONE)
