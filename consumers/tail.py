"""Streams new events to many listeners for the cost of one reader: it follows one mode's log for the whole process, and
keeps the latest events in memory.

    async with tail.listen(tenant_id, types, after=pos) as events:
        async for event in events: …

A listener's only state is its position. At each step it takes the next event after that position from one of two sources:

      ┌─► the window is complete from the position on ──► next event in memory, or wait for news of this tenant
      │
      └── it is not ──► a page from the database; the pages catch up with the window

Both sources are complete and in order. So a listener may change from one to the other at any time, and back when it was
too slow for the window: it misses no event and gets none twice. There are no queues, so a slow listener costs only the
page that it reads, and delays no other listener.

Without listeners the tail does not poll. Polling finds every event; `hint` only makes the next poll come sooner.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

from consumers.recent_events import RecentEvents
from consumers.tail_listener import Listener
from schema.connections.database import Pool
from schema.event_log.positions import EventsAfter, events_after, events_of_tenants, log_end
from schema.polling import PollTimer, through_outages

PAGE_EVENTS: Final = 100
PAGE_BYTES: Final = 256 * 1024  # each listener that catches up holds one page, and there may be hundreds
_CONCURRENT_PAGES: Final = 2  # the pool's other users need connections too


class Tail:
    def __init__(
        self, pool: Pool, *, max_events: int = 10_000, max_characters: int = 16 * 1024 * 1024
    ) -> None:
        self._pool = pool
        self._recent = RecentEvents(max_events, max_characters)
        self._poll_timer = PollTimer(first=0.02, most=0.25)
        self._joined = asyncio.Event()
        self._stopped = asyncio.Event()
        self._page_reads = asyncio.Semaphore(_CONCURRENT_PAGES)

    def hint(self) -> None:
        """Makes the next poll come immediately. This process's sequencer calls it after each batch."""
        self._poll_timer.hint()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the log until `stop`. Then all listeners end."""
        self._stopped.clear()
        try:
            while not stop.is_set():
                if not self._recent.channels:
                    await self._wait_for_listener(stop)
                else:
                    found = await through_outages(stop, "tail", self._poll)
                    await self._poll_timer.wait(found=bool(found))
        finally:
            self._stopped.set()
            self._recent.notify_all()

    @asynccontextmanager
    async def listen(
        self, tenant_id: UUID, types: Collection[str] = (), *, after: int | None = None
    ) -> AsyncIterator[Listener]:
        """Yields events of these types, named exactly, or of all types when none is named. `after` None: new events only.

        The iteration raises InvalidInput for a position that the log has not reached.
        """
        wanted = frozenset(types)
        channel = self._recent.join(tenant_id)
        self._joined.set()
        try:
            if after is None:
                end = await through_outages(self._stopped, "listener", lambda: log_end(self._pool))
                after = end.pos if end else 0  # None: the tail has stopped
            yield Listener(
                self._recent, channel, wanted, after, partial(self._page, tenant_id, wanted), self._stopped
            )
        finally:
            self._recent.leave(tenant_id, channel)

    async def _wait_for_listener(self, stop: asyncio.Event) -> None:
        self._joined.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._joined)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _poll(self) -> bool:
        """Reads the next events into memory. True: there may be more."""
        recent = self._recent
        start, listened = recent.end, dict(recent.channels)
        end = await log_end(self._pool)
        if start is None:
            if recent.end is None and recent.channels:
                recent.restart(end.pos)
            return False
        if end.pos == start:
            return False
        found = await events_of_tenants(self._pool, start, listened)
        if recent.end != start:  # all listeners left during the read
            return True
        if found.end.dropped_up_to > start:  # each listener's next page reports the dropped events
            recent.restart(found.end.pos)
        else:
            recent.extend(found.events, found.reached, listened)
        return True

    async def _page(self, tenant_id: UUID, types: frozenset[str], pos: int) -> EventsAfter:
        async with self._page_reads:
            return await events_after(self._pool, tenant_id, pos, types, PAGE_EVENTS, PAGE_BYTES)
