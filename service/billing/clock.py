"""What time it is for the billing engine: the database's time, which all workers share, or a simulation's."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from schema.billing import books
from schema.database import Executor

_TICK: Final = timedelta(microseconds=1)


class Clock(Protocol):
    async def now(self, executor: Executor) -> datetime: ...
    def moment(self) -> datetime | None:
        """Of the next event; None for the moment at which it is recorded."""


class DatabaseClock:
    async def now(self, executor: Executor) -> datetime:
        return await books.clock(executor)

    def moment(self) -> datetime | None:
        return None


class VirtualClock:
    """Stands still until it is advanced.

    With `history`, events are of its moments, each a microsecond after the one before, so that lists keep their order;
    their months need partitions. Without, they are recorded as of now.
    """

    def __init__(self, start: datetime, *, history: bool) -> None:
        self.time = start
        self._history = history

    def advance(self, to: datetime) -> None:
        """Never back."""
        self.time = max(self.time, to)

    async def now(self, executor: Executor) -> datetime:  # noqa: ARG002  the protocol's
        return self.time

    def moment(self) -> datetime | None:
        if not self._history:
            return None
        self.time += _TICK
        return self.time
