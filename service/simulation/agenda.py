"""The agenda: future actions in time order."""

import heapq
from datetime import datetime
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Agenda(Generic[T]):
    def __init__(self) -> None:
        self._items: list[tuple[datetime, int, T]] = []
        self._numbers = count()

    def add(self, at: datetime, item: T) -> None:
        heapq.heappush(self._items, (at, next(self._numbers), item))

    def take_until(self, moment: datetime) -> tuple[datetime, T] | None:
        """Yields the actions due until then, in order, including those added during the iteration."""
        if not self._items or self._items[0][0] > moment:
            return None
        at, _, item = heapq.heappop(self._items)
        return at, item
