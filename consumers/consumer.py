"""The catch-up loop of every consumer. A consumer follows one mode's log through its own cursor:

      ┌─► lock the cursor ── held by another worker ──► wait
      │        │
      │   read the events after it ── none ──► wait
      │        │
      │   apply, move the cursor            one transaction: the effect and the cursor commit together,
      │        │                            so a projection is exactly-once
      │     commit ──► effect.committed()
      │        │
      └────────┘       failed: effect.rolled_back(), then by kind of error (schema/connections/error_kinds.py)
                         · data fault          retry a few times, then halve the batch, until one event is
                                               alone: it is dead-lettered (dead_events), and the cursor moves on
                         · timeout             halve the batch immediately; a single event is retried without limit,
                                               unless the timeout is its own fault several times (slow_event.py)
                         · any other           retry the same batch with backoff, without limit

Reading can fail for one event as well, because stored bytes may be damaged. Such an event is isolated in the same way, and
dead-lettered by the log's own row, without its data.

Any number of workers may run the loop; the one that gets the cursor applies the batch. A failing consumer delays neither
the other consumers nor the other mode. Dead-lettering takes several tries with backoff, so that a defect in our code
dead-letters few events before it is noticed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from consumers.slow_event import SlowEvent
from schema.connections.database import Connection, Pool
from schema.connections.error_kinds import describe, is_data_fault, is_query_canceled, is_unreadable
from schema.event_log import log
from schema.event_log.log import Batch, Cursor, LogEntry, LoggedEvent
from schema.failures import current_part, failed, succeeded
from schema.polling import PollTimer, through_outages

_logger = logging.getLogger(__name__)
_APPLY: Final = "apply events"
TRIES_PER_BATCH = 3
SLOW_TRIES = 3
"""Statement timeouts in a row that are a single event's own fault, before it is dead-lettered."""


class Effect(Protocol):
    """In-memory work that remains once the transaction has committed or rolled back. Its methods must not raise."""

    def committed(self) -> None: ...
    def rolled_back(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """How many of the events, from the first on, were applied. The others come again with the next batch."""

    events: int
    effect: Effect | None = None


class Handler(Protocol):
    """Applies events: at least one, and as many more as make a batch of reasonable size.

    `apply` writes through `tx` alone. If it raises, it undoes everything else that it did.
    """

    @property
    def name(self) -> str: ...
    async def ready(self, *, behind: bool) -> int:
        """How many events it can take next, at least one. It may wait a short time for more events; `behind`: there are
        more already.
        """

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied: ...


class HandlerEnded(Exception):
    """Raised by `apply` when the handler is no longer needed. It halves no batch and dead-letters no event."""


class BatchFailed(Exception):
    """A batch failed that may succeed with fewer or other events. `size` events after position `after` were tried."""

    def __init__(self, after: int, size: int, cause: Exception) -> None:
        super().__init__(describe(cause))
        self.after = after
        self.size = size
        self.cause = cause


class _ReadFailed(BatchFailed):
    pass


@dataclass(slots=True)
class _Suspect:
    """A single event, the one after a position, whose statement timed out."""

    after: int
    tries: int = 0
    """Timeouts in a row that were the event's own fault."""


class Consumer:
    def __init__(self, pool: Pool, handler: Handler, batch_size: int = 1000) -> None:
        self._pool = pool
        self._handler = handler
        self._most = batch_size
        self._size = batch_size
        # The worker that sequences events wakes its own consumers. This poll is for when that worker dies in between.
        self.poll_timer = PollTimer(first=0.02, most=0.25)
        self._hinted = False  # there is work, so the check of the backlog can be skipped
        self._suspect: _Suspect | None = None
        self._conclusive = True
        """Whether the last step shows that events can be applied. False: another worker held the cursor."""
        self._stuck_at: int | None = None
        """Where the cursor was when this worker last failed, as far as known."""
        self.behind = False
        """The log had more events after the last batch."""
        self.applied = 0
        self.dead_lettered = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            moved = await through_outages(
                stop, f"consumer {self._handler.name}", self.step, conclusive=lambda _moved: self._conclusive
            )
            self._hinted = await self.poll_timer.wait(found=bool(moved))

    async def step(self) -> int:
        """Moves the cursor by one batch and returns by how many events. Raises errors that are not the events' fault."""
        slow = SlowEvent(self._pool) if self._suspect else None
        try:
            moved = await _with_tries(partial(self._advance, slow))
        except BatchFailed as failure:
            failed(_APPLY, failure.cause, f"events after position {failure.after}")
            return await self._isolate(failure, slow)
        # Reported only here, so that dead-lettering event after event is one streak of failures.
        if self._conclusive:
            succeeded(_APPLY)
        if moved:
            self._suspect = None
            self._size = min(self._most, self._size * 2)
            self.applied += moved
        return moved

    async def _isolate(self, failure: BatchFailed, slow: SlowEvent | None) -> int:
        if failure.size > 1:
            self._size = failure.size // 2
            return failure.size
        if not is_query_canceled(failure.cause):
            return await self._dead_letter(failure.after, str(failure))
        suspect = self._suspect
        if suspect is None or suspect.after != failure.after or slow is None:
            self._suspect = _Suspect(failure.after)
            raise failure.cause
        suspect.tries = suspect.tries + 1 if slow.is_at_fault else 0
        if suspect.tries < SLOW_TRIES:
            raise failure.cause
        self._suspect = None
        return await self._dead_letter(failure.after, f"{failure} ({SLOW_TRIES} times, alone)")

    async def _advance(self, slow: SlowEvent | None = None) -> int:
        self._conclusive = True
        if not self._hinted and not await log.backlog(self._pool, self._handler.name):
            self.behind = False
            return 0
        size = min(self._size, await self._handler.ready(behind=self.behind))
        async with AsyncExitStack() as outermost:
            connection = await outermost.enter_async_context(self._pool.acquire())
            if slow is not None:
                await outermost.enter_async_context(slow.observing(connection))
            return await self._apply_next(connection, size)

    async def _apply_next(self, tx: Connection, size: int) -> int:
        cursor: Cursor | None = None
        events: list[LoggedEvent] = []
        applied = Applied(0)
        try:
            async with tx.transaction():
                cursor = await log.take_cursor(tx, self._handler.name)
                batch = await self._read(tx, cursor, size)
                events, self.behind = batch.events, batch.more
                if cursor is None and current_part().any:
                    self._conclusive = await self._others_make_progress(tx)
                if cursor is None or not events:
                    return 0
                applied = await self._handler.apply(tx, events)
                if applied.events < 1:
                    raise RuntimeError("a handler must apply one event at least")  # noqa: TRY301
                await log.move_cursor(tx, cursor, events[applied.events - 1].pos)
        except BaseException as error:
            if applied.effect:
                applied.effect.rolled_back()
            self._stuck_at = cursor.pos if cursor else None
            if isinstance(error, Exception) and cursor and events and _is_isolated(error):
                raise BatchFailed(cursor.pos, len(events), error) from error
            raise
        self.behind |= applied.events < len(events)
        if applied.effect:
            applied.effect.committed()
        return applied.events

    async def _others_make_progress(self, tx: Connection) -> bool:
        """Whether another worker has moved the cursor since this one failed."""
        pos = await log.position(tx, self._handler.name)
        if self._stuck_at is None:
            self._stuck_at = pos
        return pos > self._stuck_at

    async def _read(self, tx: Connection, cursor: Cursor | None, size: int) -> Batch:
        if cursor is None:
            return Batch([], more=False)
        try:
            return await log.read_after(tx, cursor.pos, size)
        except Exception as error:
            if is_unreadable(error) or is_query_canceled(error):
                raise _ReadFailed(cursor.pos, size, error) from error
            raise

    async def _dead_letter(self, after: int, error: str) -> int:
        """Dead-letters the event after that position, unless another worker has moved the cursor past it."""
        async with self._pool.acquire() as tx, tx.transaction():
            cursor = await log.take_cursor(tx, self._handler.name)
            entry: LogEntry | None = None
            if cursor is not None and cursor.pos == after:
                entry = await log.entry_after(tx, after)
            if cursor is None or entry is None:
                return 0
            await log.dead_letter(tx, self._handler.name, entry, error)
            await log.move_cursor(tx, cursor, entry.pos)
        self.dead_lettered += 1
        _logger.error("%s: dead-lettered event %s at %d: %s", self._handler.name, entry.id, entry.pos, error)
        return 1

    async def retry_dead_event(self, event: LoggedEvent) -> bool:
        """Applies one dead-lettered event and removes it from the list. Raises what `apply` raises.

        False when it is no longer on the list.
        """
        applied = Applied(0)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                # First, as in a rebuild's replacement of generations: the other order could deadlock.
                await log.lock_consumer(tx, self._handler.name)
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


def _is_isolated(error: Exception) -> bool:
    return is_data_fault(error) or is_query_canceled(error)


def _may_succeed_again(error: BaseException) -> bool:
    if not isinstance(error, BatchFailed) or is_query_canceled(error.cause):
        return False
    return error.size == 1 or not isinstance(error, _ReadFailed)  # stored bytes stay damaged


async def _with_tries(advance: Callable[[], Awaitable[int]]) -> int:
    try:
        return await advance()
    except BatchFailed as failure:
        if TRIES_PER_BATCH == 1 or not _may_succeed_again(failure):
            raise
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_succeed_again),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            stop=stop_after_attempt(TRIES_PER_BATCH - 1),
            reraise=True,
        )
        moved: int = await retrying(advance)
        return moved
