"""The events that a tail keeps in memory: for each tenant with listeners, its latest ones, complete from some position on.
One limit holds for all tenants together. The oldest event is removed first, and its tenant's events are then complete
from that position on.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Final
from uuid import UUID

from schema.event_log.log import LoggedEvent

_POS: Final = attrgetter("pos")


class Channel:
    """One tenant's events in (complete_from, the window's end], all of them and in order."""

    def __init__(self, complete_from: int | None) -> None:
        self.complete_from = complete_from
        """None: not known yet."""
        self.news = asyncio.Event()
        """Set, and replaced by a new one, whenever events were added."""
        self.listeners = 0
        self._events: deque[LoggedEvent] = deque()

    def first_after(self, pos: int, types: Collection[str]) -> LoggedEvent | None:
        """The first event of these types after `pos`, or of all types when none is named."""
        events = self._events
        for index in range(bisect_right(events, pos, key=_POS), len(events)):
            if not types or events[index].type in types:
                return events[index]
        return None

    def restart(self, complete_from: int) -> None:
        self._events.clear()
        self.complete_from = complete_from
        self.notify()

    def add(self, event: LoggedEvent) -> None:
        self._events.append(event)

    def remove_oldest(self, event: LoggedEvent) -> None:
        """Removes the oldest event, unless `restart` has removed it already."""
        if self._events and self._events[0] is event:
            self._events.popleft()
            self.complete_from = event.pos

    def notify(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class RecentEvents:
    def __init__(self, max_events: int, max_characters: int) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        self._channels: dict[UUID, Channel] = {}
        self._in_order: deque[tuple[Channel, LoggedEvent]] = deque()
        self.characters = 0
        """Total size of the events' data in memory."""
        self.end: int | None = None
        """How far the log has been followed. None: it is not followed now, and no event is kept."""

    def __len__(self) -> int:
        return len(self._in_order)

    @property
    def channels(self) -> Mapping[UUID, Channel]:
        return self._channels

    def join(self, tenant_id: UUID) -> Channel:
        channel = self._channels.get(tenant_id)
        if channel is None:
            channel = self._channels[tenant_id] = Channel(self.end)
        channel.listeners += 1
        return channel

    def leave(self, tenant_id: UUID, channel: Channel) -> None:
        channel.listeners -= 1
        if channel.listeners:
            return
        del self._channels[tenant_id]
        if not self._channels:
            self._in_order.clear()
            self.characters = 0
            self.end = None

    def restart(self, end: int) -> None:
        """Restarts the window at `end`. Listeners before it catch up through the database."""
        self._in_order.clear()
        self.characters = 0
        self.end = end
        for channel in self._channels.values():
            channel.restart(end)

    def extend(self, events: Sequence[LoggedEvent], reached: int, requested: Mapping[UUID, Channel]) -> None:
        """Adds all events of the `requested` tenants at positions in (end, reached]. A channel that joined after the
        request begins at `reached`."""
        grown = set()
        for event in events:
            channel = requested[event.tenant_id]
            if self._channels.get(event.tenant_id) is channel:
                channel.add(event)
                grown.add(channel)
                self._in_order.append((channel, event))
                self.characters += len(event.data)
        self.end = reached
        for tenant_id, channel in self._channels.items():
            if requested.get(tenant_id) is not channel:
                channel.restart(reached)
        self._shrink()
        for channel in grown:
            channel.notify()

    def _shrink(self) -> None:
        while len(self._in_order) > self._max_events or self.characters > self._max_characters:
            channel, event = self._in_order.popleft()
            self.characters -= len(event.data)
            channel.remove_oldest(event)

    def notify_all(self) -> None:
        for channel in self._channels.values():
            channel.notify()
