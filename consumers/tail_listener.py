"""One listener of a tail. See tail.py for its two sources of events."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from consumers.recent_events import Channel, RecentEvents
from schema.event_log.log import LoggedEvent
from schema.event_log.positions import EventsAfter
from schema.polling import through_outages

_YIELD_EVERY: Final = 64  # events from memory before other tasks get a turn


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """Stands in place of events that retention has dropped: some up to this position may be missing."""

    up_to: int


TailItem: TypeAlias = LoggedEvent | EventsDropped


class Listener:
    """Iterates over a tenant's events. An iterator, not a generator: a cancelled wait, as by a timeout, loses no event."""

    def __init__(
        self,
        recent: RecentEvents,
        channel: Channel,
        types: frozenset[str],
        pos: int,
        page_after: Callable[[int], Awaitable[EventsAfter]],
        stopped: asyncio.Event,
    ) -> None:
        self._recent = recent
        self._channel = channel
        self._types = types
        self._pos = pos
        self._page_after = page_after
        self._stopped = stopped
        self._page: deque[TailItem] = deque()
        self._page_reaches = pos
        self._is_of_this_log = False  # a page has shown that the log reaches the position
        self._reported_dropped = 0
        self._since_yield = 0

    @property
    def position(self) -> int:
        """Where a later listener can resume: every matching event up to here was yielded. It moves with the log even
        while no event matches."""
        if not self._page and self._in_window() and self._next_in_window() is None:
            self._move_to_window_end()
        return self._pos

    def __aiter__(self) -> AsyncIterator[TailItem]:
        return self

    async def __anext__(self) -> TailItem:
        while not self._stopped.is_set():
            news = self._channel.news  # taken before the look: events that arrive during it set this one
            if self._page:
                return self._next_of_page()
            if self._in_window():
                if event := self._next_in_window():
                    self._pos = event.pos
                    await self._yield_to_other_tasks()
                    return event
                self._move_to_window_end()
                await news.wait()
            elif not await self._read_page():
                await news.wait()
        raise StopAsyncIteration

    def _in_window(self) -> bool:
        start, end = self._channel.complete_from, self._recent.end
        if start is None or end is None:
            return False
        return start <= self._pos and (self._is_of_this_log or self._pos <= end)

    def _next_in_window(self) -> LoggedEvent | None:
        return self._channel.first_after(self._pos, self._types)

    def _move_to_window_end(self) -> None:
        """Passes over events that did not match, so that they are not searched again and the window cannot leave us
        behind."""
        self._pos = max(self._pos, self._recent.end or 0)

    async def _yield_to_other_tasks(self) -> None:
        self._since_yield += 1
        if self._since_yield == _YIELD_EVERY:
            self._since_yield = 0
            await asyncio.sleep(0)

    def _next_of_page(self) -> TailItem:
        item = self._page.popleft()
        if not self._page:
            self._pos = self._page_reaches
        elif isinstance(item, LoggedEvent):
            self._pos = item.pos
        return item

    async def _read_page(self) -> bool:
        """Returns whether the position moved. False: it is at the log's end, where the window does not begin yet."""
        before = self._pos
        page = await through_outages(self._stopped, "listener", lambda: self._page_after(before))
        if page is None:
            return True  # the tail has stopped
        self._is_of_this_log = True
        if page.dropped_up_to is not None and page.dropped_up_to > self._reported_dropped:
            self._reported_dropped = page.dropped_up_to
            self._page.append(EventsDropped(page.dropped_up_to))
        self._page += page.events
        self._page_reaches = page.reached
        if not self._page:
            self._pos = page.reached
        return bool(self._page) or self._pos > before
