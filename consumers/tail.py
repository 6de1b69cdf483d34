"""Events as they come, for many listeners at the price of one: a single reader follows one mode's log for the whole
process, and keeps its latest events in memory.

    async with tail.listen(tenant_id, types, after=pos) as events:
        async for event in events: …

A listener has one thing only, its position, and at each step takes the next event after it from wherever that is:

      ┌─► the window is complete from its position on ──► the next one there, or wait for news of this tenant
      │
      └── it is not ──► a page from the database, which reaches the window some time

Both are complete and in order, so it does not matter when it changes from one to the other, or back when it was so slow
that the window has moved on: nothing is missed and nothing comes twice. Nothing is put into a queue for anybody, so a slow
listener costs what it is reading, holds up nobody, and the tail does not know of it.

While nobody listens nothing is polled. Polling is the truth; `hint` makes the next poll come sooner.
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
from schema.polling import Pace, through_outages

PAGE_EVENTS: Final = 100
PAGE_BYTES: Final = 256 * 1024  # one each for listeners that catch up, and there may be hundreds
_READ_AT_ONCE: Final = 2  # of the pool's connections, which others need too


class Tail:
    def __init__(
        self, pool: Pool, *, most_events: int = 10_000, most_characters: int = 16 * 1024 * 1024
    ) -> None:
        self._pool = pool
        self._recent = RecentEvents(most_events, most_characters)
        self._pace = Pace(first=0.02, most=0.25)
        self._wanted = asyncio.Event()
        self._over = asyncio.Event()
        self._turns = asyncio.Semaphore(_READ_AT_ONCE)

    def hint(self) -> None:
        """There may be news: the sequencer of this process calls it."""
        self._pace.hint()

    async def run(self, stop: asyncio.Event) -> None:
        """When it ends, all listeners end."""
        self._over.clear()
        try:
            while not stop.is_set():
                if not self._recent.channels:
                    await self._until_somebody_listens(stop)
                else:
                    found = await through_outages(stop, "tail", self._poll)
                    await self._pace.wait(found=bool(found))
        finally:
            self._over.set()
            self._recent.notify_all()

    @asynccontextmanager
    async def listen(
        self, tenant_id: UUID, types: Collection[str] = (), *, after: int | None = None
    ) -> AsyncIterator[Listener]:
        """Events of these types, by their exact names, all when there are none; `after` None: those to come.

        InvalidInput comes out of the iteration for a position that the log has not reached.
        """
        wanted = frozenset(types)
        channel = self._recent.join(tenant_id)
        self._wanted.set()
        try:
            if after is None:
                end = await through_outages(self._over, "listener", lambda: log_end(self._pool))
                after = end.pos if end else 0  # none: it is over
            yield Listener(
                self._recent, channel, wanted, after, partial(self._page, tenant_id, wanted), self._over
            )
        finally:
            self._recent.leave(tenant_id, channel)

    async def _until_somebody_listens(self, stop: asyncio.Event) -> None:
        self._wanted.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._wanted)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _poll(self) -> bool:
        """Whether there may be more right now."""
        recent = self._recent
        start, listened = recent.end, dict(recent.channels)
        end = await log_end(self._pool)
        if start is None:
            if recent.end is None and recent.channels:
                recent.begin(end.pos)
            return False
        if end.pos == start:
            return False
        stretch = await events_of_tenants(self._pool, start, listened)
        if recent.end != start:  # all left meanwhile
            return True
        if stretch.end.dropped_up_to > start:  # dropped before it was read: each is told in its own page
            recent.begin(stretch.end.pos)
        else:
            recent.take(stretch.events, stretch.reached, listened)
        return True

    async def _page(self, tenant_id: UUID, types: frozenset[str], pos: int) -> EventsAfter:
        async with self._turns:
            return await events_after(self._pool, tenant_id, pos, types, PAGE_EVENTS, PAGE_BYTES)
