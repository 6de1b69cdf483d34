"""Consumer handlers that write a projection: one for the generation that serves, one for the generation being built."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from consumers.consumer import Applied, HandlerEnded
from schema.connections.database import Connection
from schema.event_log.log import LoggedEvent
from schema.read_models.projections import builder, generations

_CHUNK: Final = 50
"""Events; about a millisecond of work."""
_SHARE_BESIDE_OTHERS: Final = 0.25
_LONGEST_REST_S: Final = 1.0


class Projection(Protocol):
    """Turns events, in order, into rows of one generation. It writes through `tx` alone."""

    @property
    def name(self) -> str: ...
    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None: ...


async def in_chunks(events: Sequence[LoggedEvent]) -> AsyncIterator[Sequence[LoggedEvent]]:
    """Yields a few events at a time, so that sending in this process does not wait for a whole batch."""
    for first in range(0, len(events), _CHUNK):
        yield events[first : first + _CHUNK]
        await asyncio.sleep(0)


class NotBeingBuilt(HandlerEnded):
    """The rebuild was abandoned, or finished by another process."""


class ProjectionHandler:
    """A consumer's handler that keeps the serving generation up to date.

    `gather_s`: how long it lets events gather before a batch, unless it has a backlog. A batch costs half a dozen round
    trips and a commit, however few events it has. Deliveries need the same cores, and must not be late.

    `others_first`: whether deliveries have a backlog now. The handler then works only a quarter of the time and catches up
    later: a feed may be some seconds late, but webhooks must not take twice as long. It never stops entirely.
    """

    def __init__(
        self,
        projection: Projection,
        batch_size: int = 1000,
        gather_s: float = 0.0,
        others_first: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = projection.name
        self._projection = projection
        self._batch_size = batch_size
        self._gather_s = gather_s
        self._others_first = others_first
        self._began: float | None = None

    async def ready(self, *, behind: bool) -> int:
        if not behind:
            await asyncio.sleep(self._gather_s)
        elif self._began is not None and self._others_first():
            worked = time.monotonic() - self._began
            await asyncio.sleep(min(_LONGEST_REST_S, worked * (1 / _SHARE_BESIDE_OTHERS - 1)))
        self._began = time.monotonic()
        return self._batch_size

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        now = await generations(tx, self.name)
        await self._projection.project(tx, now.serving, events)
        return Applied(len(events))


class RebuildHandler:
    """A consumer's handler that fills the generation being built. `apply` raises NotBeingBuilt when there is none."""

    def __init__(self, projection: Projection, batch_size: int = 1000) -> None:
        self.name = builder(projection.name)
        self._projection = projection
        self._batch_size = batch_size

    async def ready(self, *, behind: bool) -> int:  # noqa: ARG002  a rebuild never waits here
        return self._batch_size

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        now = await generations(tx, self._projection.name)
        if now.building is None:
            raise NotBeingBuilt(f"{self._projection.name} is not being built any more")
        await self._projection.project(tx, now.building, events)
        return Applied(len(events))
