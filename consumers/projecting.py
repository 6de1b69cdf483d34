"""What makes a consumer of a projection: the cursor's transaction, and the generation that it writes into."""

from collections.abc import Sequence
from typing import Protocol

from consumers.consumer import Applied, HandlerEnded
from schema.database import Connection
from schema.log import LoggedEvent
from schema.projections import builder, generations


class Projection(Protocol):
    """Writes what it makes of the events, in order, into the rows of one generation, through `tx` alone."""

    @property
    def name(self) -> str: ...
    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None: ...


class NotBeingBuilt(HandlerEnded):
    """The rebuild was given up, or finished by another process."""


class Serving:
    """A consumer's handler that keeps the generation that serves up to date."""

    def __init__(self, projection: Projection, batch_size: int = 1000) -> None:
        self.name = projection.name
        self._projection = projection
        self._batch_size = batch_size

    async def ready(self) -> int:
        return self._batch_size

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        now = await generations(tx, self.name)
        await self._projection.project(tx, now.serving, events)
        return Applied(len(events))


class Building:
    """A consumer's handler that fills the generation being built. Raises NotBeingBuilt when there is none."""

    def __init__(self, projection: Projection, batch_size: int = 1000) -> None:
        self.name = builder(projection.name)
        self._projection = projection
        self._batch_size = batch_size

    async def ready(self) -> int:
        return self._batch_size

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        now = await generations(tx, self._projection.name)
        if now.building is None:
            raise NotBeingBuilt(f"{self._projection.name} is not being built any more")
        await self._projection.project(tx, now.building, events)
        return Applied(len(events))
