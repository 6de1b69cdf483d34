"""The clock of the billing engine: the database's time, which all workers share, or a simulation's."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from schema.billing import billing_cases
from schema.connections.database import Executor

_TICK: Final = timedelta(microseconds=1)


class Clock(Protocol):
    async def now(self, executor: Executor) -> datetime: ...
    def moment(self) -> datetime | None:
        """Returns the time of the next event; None means the time of recording."""


class DatabaseClock:
    async def now(self, executor: Executor) -> datetime:
        return await billing_cases.clock(executor)

    def moment(self) -> datetime | None:
        return None


class VirtualClock:
    """Stands still until it is advanced.

    With `history`, events carry this clock's times, each a microsecond after the previous one to keep lists in order;
    their months need partitions. Without, events carry the time of recording.
    """

    def __init__(self, start: datetime, *, history: bool) -> None:
        self.time = start
        self._history = history

    def advance(self, to: datetime) -> None:
        """Moves the clock forward, never back."""
        self.time = max(self.time, to)

    async def now(self, executor: Executor) -> datetime:  # noqa: ARG002  part of the protocol
        return self.time

    def moment(self) -> datetime | None:
        if not self._history:
            return None
        self.time += _TICK
        return self.time
