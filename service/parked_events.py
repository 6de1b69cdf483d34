"""Trying again what a consumer could not apply: each parked event alone, in its own transaction."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final
from uuid import UUID

from consumers.consumer import Consumer, Handler
from consumers.fanout import FANOUT, FanOut, NoRoom
from consumers.projecting import Serving
from schema import log
from schema.database import Pool, is_transient
from schema.log import ParkedEvent
from service.projections import PROJECTIONS

_STEP: Final = 100


# What they hand on waits in its table: this process has no worker id to claim it with.
_HANDLERS: Final[Mapping[str, Callable[[], Handler]]] = {
    FANOUT: lambda: FanOut(NoRoom(), lambda: 0),
    **{projection.name: partial(Serving, projection) for projection in PROJECTIONS},
}


class Retried(StrEnum):
    APPLIED = "applied"
    FAILED = "failed"
    """It stays parked."""
    GONE = "gone"
    """Another process was faster."""


@dataclass(frozen=True, slots=True)
class RetryResult:
    consumer: str
    pos: int
    event_id: UUID
    result: Retried
    error: str | None = None


async def retry_parked(pool: Pool, consumer: str, only: int | None = None) -> AsyncIterator[RetryResult]:
    """In the order of the log; `only` is one position. Errors of the moment are let through."""
    at_work = Consumer(pool, _HANDLERS[consumer]())
    async for parked in _parked(pool, consumer, only):
        yield await _retry(pool, consumer, at_work, parked)


async def _parked(pool: Pool, consumer: str, only: int | None) -> AsyncIterator[ParkedEvent]:
    if only is not None:
        for parked in await log.parked(pool, consumer, only - 1, 1):
            if parked.pos == only:
                yield parked
        return
    after = 0
    while step := await log.parked(pool, consumer, after, _STEP):
        for parked in step:
            yield parked
        after = step[-1].pos


async def _retry(pool: Pool, name: str, consumer: Consumer, parked: ParkedEvent) -> RetryResult:
    result = partial(RetryResult, name, parked.pos, parked.event_id)
    event = await log.read_one(pool, parked.pos)
    if event is None:
        return result(Retried.FAILED, "the event is not in the log any more")
    try:
        applied = await consumer.retry_parked(event)
    except Exception as error:
        if is_transient(error):
            raise
        return result(Retried.FAILED, f"{type(error).__name__}: {error}")
    return result(Retried.APPLIED if applied else Retried.GONE)
