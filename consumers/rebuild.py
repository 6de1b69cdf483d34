"""Builds a projection anew from the log, beside the one that serves, and puts it in place.

    begin ──► batch, rest, batch, rest … ──► caught up ──► put in place ──► drop the former one
      │          │                              ▲   │           │
      │          └── every batch moves the      └───┘ it serves │ all of it in one transaction, or nothing
      │              cursor: cut short anywhere, it   is ahead  │
      └── resumes ◄─ goes on from there                         └── cut short here: any worker drops it

Several processes at one rebuild share its batches, as workers share a consumer's. Between batches it rests, so that the
machine is its guest's and not its own: `share` is the part of the time that it works. Near the log's end it does not rest,
for it has to overtake what is being recorded.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncpg

from consumers.consumer import Consumer
from consumers.projection_handlers import Building, NotBeingBuilt, Projection
from schema.connections.database import Pool
from schema.connections.error_kinds import needs_operator
from schema.event_log import log
from schema.polling import sleep_unless, through_outages
from schema.read_models import projections

T = TypeVar("T")
DEFAULT_SHARE: Final = 0.25
_NEAR: Final = 5_000
_LONGEST_REST_S: Final = 5.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the generation being built; `applied` and `rate` are this process's."""

    resumed: bool
    total: int
    """Events that the log has."""
    left: int
    applied: int
    rate: float
    """Events per second, rests included."""
    dead: int
    finished: bool = False

    @property
    def share(self) -> float:
        return 1 - self.left / self.total if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        return self.left / self.rate if self.rate else None


class _NeedsOperator(Exception):
    def __init__(self, error: asyncpg.PostgresError) -> None:
        super().__init__(str(error))
        self.error = error


class Rebuild:
    def __init__(self, pool: Pool, projection: Projection, share: float = DEFAULT_SHARE) -> None:
        """`share` is in (0, 1]."""
        self._pool = pool
        self._name = projection.name
        self._consumer = Consumer(pool, Building(projection))
        self._share = share
        self._began = time.monotonic()
        self._resumed = False

    async def run(self, stop: asyncio.Event) -> AsyncIterator[Progress]:
        """The last one is `finished`, unless `stop` was first: then calling it again goes on, in any process.

        Raises NotBeingBuilt when somebody else gave it up or finished it.
        """
        begun = await self._with_retries(stop, lambda: projections.begin_rebuild(self._pool, self._name))
        if begun is None:
            return
        self._resumed = begun.resumed
        yield await self._progress()
        while not stop.is_set():
            began = time.monotonic()
            if await self._step(stop, begun.generation):
                progress = await self._progress()
                yield progress
                await self._rest(stop, time.monotonic() - began, progress.left)
            elif await self._caught_up(stop) and await self._finish(stop, begun.generation):
                yield await self._progress(finished=True)
                break
            else:
                await sleep_unless(stop, _POLL_S)

    async def _step(self, stop: asyncio.Event, generation: int) -> int:
        try:
            return await self._with_retries(stop, self._consumer.step) or 0
        except NotBeingBuilt:
            if await self._serves(stop, generation):
                return 0
            raise

    async def _caught_up(self, stop: asyncio.Event) -> bool:
        """Or else another process has the cursor, and is at it; or has finished."""
        at = await self._with_retries(stop, lambda: projections.generations(self._pool, self._name))
        builder = projections.builder(self._name)
        return at is None or at.building is None or not await log.backlog(self._pool, builder)

    async def _finish(self, stop: asyncio.Event, generation: int) -> bool:
        """False while what serves is ahead."""
        if await self._with_retries(stop, lambda: projections.finish_rebuild(self._pool, self._name)):
            return True
        return await self._serves(stop, generation)  # another process did it, or our commit's answer was lost

    async def _serves(self, stop: asyncio.Event, generation: int) -> bool:
        """Raises NotBeingBuilt when it neither does nor will."""
        now = await self._with_retries(stop, lambda: projections.generations(self._pool, self._name))
        if now is not None and generation not in (now.serving, now.building):
            raise NotBeingBuilt(f"the rebuild of {self._name} was given up elsewhere")
        return now is not None and now.serving == generation

    async def _rest(self, stop: asyncio.Event, worked: float, left: int) -> None:
        if left > _NEAR and self._share < 1:
            await sleep_unless(stop, min(_LONGEST_REST_S, worked * (1 / self._share - 1)))

    async def _progress(self, *, finished: bool = False) -> Progress:
        name = self._name if finished else projections.builder(self._name)
        at = await projections.consumer_progress(self._pool, name)
        return Progress(
            self._resumed,
            at.last_pos - at.before_first,
            max(0, at.last_pos - max(at.pos, at.before_first)),
            self._consumer.applied,
            self._consumer.applied / max(time.monotonic() - self._began, 0.001),
            at.dead,
            finished,
        )

    async def _with_retries(self, stop: asyncio.Event, operation: Callable[[], Awaitable[T]]) -> T | None:
        """Through what passes by itself. A person waits for it, who has to learn at once what does not."""

        async def attempt() -> T:
            try:
                return await operation()
            except asyncpg.PostgresError as error:
                if needs_operator(error):
                    raise _NeedsOperator(error) from error
                raise

        try:
            return await through_outages(stop, f"rebuild of {self._name}", attempt)
        except _NeedsOperator as needed:
            raise needed.error from None
