"""The one catch-up loop. A consumer follows one mode's log through its own cursor:

      ┌─► lock the cursor ── taken by another worker ──► wait
      │        │
      │   read the events after it ── none ──► wait
      │        │
      │   apply, move the cursor            one transaction: the effect and the cursor commit together,
      │        │                            so a projection is exactly-once
      │     commit ──► effect.committed()
      │        │
      └────────┘       failed: effect.rolled_back(), then by kind of error
                         · of the moment (connection, deadlock, …)  again, with backoff, for ever
                         · the batch's own                          again a few times, then half the batch,
                                                                    until one event stands alone, which is
                                                                    dead-lettered (dead_events); the cursor moves on

Any number of workers may run the loop; whoever gets the cursor does the batch. A consumer in trouble holds up
neither the other consumers nor the other mode. Dead-lettering is slow on purpose (several tries, with backoff, per
event), so that a fault that is not the event's dead-letters few of them before it is noticed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from schema import log
from schema.database import Connection, Pool, is_of_the_batch
from schema.log import LoggedEvent
from schema.polling import Pace, through_outages

_logger = logging.getLogger(__name__)
TRIES_PER_BATCH = 3


class Effect(Protocol):
    """What remains to be done, in memory, once the fate of the transaction is known. Must not raise."""

    def committed(self) -> None: ...
    def rolled_back(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """How many of the events were applied, the first ones; the others come again with the next batch."""

    events: int
    effect: Effect | None = None


class Handler(Protocol):
    """What a consumer does with events: one of them at least, and then as many as are a batch of reasonable size.

    `apply` writes through `tx` alone, and undoes what else it did if it raises.
    """

    @property
    def name(self) -> str: ...
    async def ready(self) -> int:
        """How many events it would like next, one at least. May wait a moment, and a moment only, for there to be more."""

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied: ...


class HandlerEnded(Exception):
    """From `apply`: there is nothing more for it to do, whatever the events. Nothing is halved or dead-lettered for it."""


class BatchFailed(Exception):
    def __init__(self, events: Sequence[LoggedEvent], cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.events = events


class Consumer:
    def __init__(self, pool: Pool, handler: Handler, batch_size: int = 1000) -> None:
        self._pool = pool
        self._handler = handler
        self._most = batch_size
        self._size = batch_size
        # Whoever sequences events wakes its own consumers; this poll is for when that worker dies in between.
        self.pace = Pace(first=0.02, most=0.25)
        self._hinted = False  # there is work, as far as known: the look whether there is can be spared
        self.behind = False
        """The last batch was as large as it could be: there is more."""
        self.applied = 0
        self.dead_lettered = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            moved = await through_outages(stop, f"consumer {self._handler.name}", self.step)
            self._hinted = await self.pace.wait(found=bool(moved))

    async def step(self) -> int:
        """Takes the cursor one batch further; returns by how many events. Lets errors of the moment through."""
        try:
            moved = await _a_few_times(self._advance)
        except BatchFailed as failure:
            if len(failure.events) == 1:
                return await self._dead_letter(failure.events[0], str(failure))
            self._size = len(failure.events) // 2
            _logger.warning("%s: batch failed, halved to %d: %s", self._handler.name, self._size, failure)
            return len(failure.events)
        if moved:
            self._size = min(self._most, self._size * 2)
            self.applied += moved
        return moved

    async def _advance(self) -> int:
        if not self._hinted and not await log.backlog(self._pool, self._handler.name):
            self.behind = False
            return 0
        size = min(self._size, await self._handler.ready())
        events: list[LoggedEvent] = []
        applied = Applied(0)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                cursor = await log.take_cursor(tx, self._handler.name)
                if cursor is not None:
                    events = await log.read_after(tx, cursor.pos, size)
                self.behind = len(events) == size
                if cursor is None or not events:
                    return 0
                applied = await self._handler.apply(tx, events)
                if applied.events < 1:
                    raise ValueError("a handler must apply one event at least")  # noqa: TRY301
                await log.move_cursor(tx, cursor, events[applied.events - 1].pos)
        except BaseException as error:
            if applied.effect:
                applied.effect.rolled_back()
            if events and _is_the_events_fault(error):
                raise BatchFailed(events, error) from error
            raise
        if applied.effect:
            applied.effect.committed()
        return applied.events

    async def _dead_letter(self, event: LoggedEvent, error: str) -> int:
        async with self._pool.acquire() as tx, tx.transaction():
            cursor = await log.take_cursor(tx, self._handler.name)
            if cursor is None:
                return 0
            following = await log.read_after(
                tx, cursor.pos, 1
            )  # not always the next position: see retention.py
            if [found.pos for found in following] != [event.pos]:
                return 0  # another worker got past it
            await log.dead_letter(tx, self._handler.name, event, error)
            await log.move_cursor(tx, cursor, event.pos)
        self.dead_lettered += 1
        _logger.error("%s: dead-lettered event %s at %d: %s", self._handler.name, event.id, event.pos, error)
        return 1

    async def retry_dead_event(self, event: LoggedEvent) -> bool:
        """Applies one dead-lettered event and takes it off the list; raises what `apply` raises.

        False when it is not on the list any more.
        """
        applied = Applied(0)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                await log.hold_consumer(
                    tx, self._handler.name
                )  # first, as whoever exchanges generations does
                if not await log.remove_dead_event(tx, self._handler.name, event.pos):
                    return False
                applied = await self._handler.apply(tx, [event])
        except BaseException:
            if applied.effect:
                applied.effect.rolled_back()
            raise
        if applied.effect:
            applied.effect.committed()
        return True


def _is_the_events_fault(error: BaseException) -> TypeGuard[Exception]:
    return is_of_the_batch(error) and not isinstance(error, HandlerEnded)


async def _a_few_times(advance: Callable[[], Awaitable[int]]) -> int:
    try:
        return await advance()
    except BatchFailed:
        if TRIES_PER_BATCH == 1:
            raise
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(BatchFailed),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            stop=stop_after_attempt(TRIES_PER_BATCH - 1),
            reraise=True,
        )
        moved: int = await retrying(advance)
        return moved
