"""One listener of a tail: see tail.py for where it finds its events."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from consumers.recent_events import Channel, RecentEvents
from schema.event_log.log import LoggedEvent
from schema.event_log.positions import EventsAfter
from schema.polling import through_outages

_IN_A_ROW: Final = 64  # events from memory, before others have a turn


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """Comes in place of events that retention has dropped: some up to this position may be missing."""

    up_to: int


TailItem: TypeAlias = LoggedEvent | EventsDropped


class Listener:
    """An iterator and no generator: to be cancelled in the midst of waiting, as by a timeout, loses nothing."""

    def __init__(
        self,
        recent: RecentEvents,
        channel: Channel,
        types: frozenset[str],
        pos: int,
        page_after: Callable[[int], Awaitable[EventsAfter]],
        over: asyncio.Event,
    ) -> None:
        self._recent = recent
        self._channel = channel
        self._types = types
        self._pos = pos
        self._page_after = page_after
        self._over = over
        self._page: deque[TailItem] = deque()
        self._page_reaches = pos
        self._is_of_this_log = False  # the log has been seen to reach the position
        self._told_gone = 0
        self._in_a_row = 0

    @property
    def position(self) -> int:
        """Where to go on another time: all that was wanted up to here has been given out. It moves with the log, also
        while there is nothing to give."""
        if not self._page and self._in_window() and self._next_in_window() is None:
            self._go_to_windows_end()
        return self._pos

    def __aiter__(self) -> AsyncIterator[TailItem]:
        return self

    async def __anext__(self) -> TailItem:
        while not self._over.is_set():
            news = self._channel.news  # before looking: what comes meanwhile sets it
            if self._page:
                return self._next_of_page()
            if self._in_window():
                if event := self._next_in_window():
                    self._pos = event.pos
                    await self._give_others_a_turn()
                    return event
                self._go_to_windows_end()
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

    def _go_to_windows_end(self) -> None:
        """What was looked at in vain is not looked at again, and a window that moves on does not leave us behind."""
        self._pos = max(self._pos, self._recent.end or 0)

    async def _give_others_a_turn(self) -> None:
        self._in_a_row += 1
        if self._in_a_row == _IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    def _next_of_page(self) -> TailItem:
        heard = self._page.popleft()
        if not self._page:
            self._pos = self._page_reaches
        elif isinstance(heard, LoggedEvent):
            self._pos = heard.pos
        return heard

    async def _read_page(self) -> bool:
        """Whether it got further. False: the log's end, and the window does not begin there yet."""
        before = self._pos
        page = await through_outages(self._over, "listener", lambda: self._page_after(before))
        if page is None:
            return True  # it is over
        self._is_of_this_log = True
        if page.dropped_up_to is not None and page.dropped_up_to > self._told_gone:
            self._told_gone = page.dropped_up_to
            self._page.append(EventsDropped(page.dropped_up_to))
        self._page += page.events
        self._page_reaches = page.reached
        if not self._page:
            self._pos = page.reached
        return bool(self._page) or self._pos > before
