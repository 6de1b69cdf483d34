"""Rebuilds a projection from the log beside the generation that serves, and then replaces that generation.

    begin ──► batch, rest, batch, rest … ──► caught up ──► replace ──► drop the old generation
      │          │                             ▲   │          │
      │          └── each batch moves the      └───┘ the old  │ one transaction: all of it or nothing
      │              cursor, so an interrupted     one is     │
      └── resume ◄── rebuild resumes there         ahead      └── interrupted here: any worker drops it

Several processes that run one rebuild share its batches, as workers share a consumer's. It rests between batches, so that
the machine's other work goes first: `share` is the part of the time that it works. Near the log's end it does not rest,
because it must overtake the events being recorded.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncpg

from consumers.consumer import Consumer
from consumers.projection_handlers import NotBeingBuilt, Projection, RebuildHandler
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
    """Progress of the generation being built. `applied` and `rate` count this process only."""

    resumed: bool
    total: int
    """Events in the log."""
    left: int
    applied: int
    rate: float
    """Events per second, including the rests."""
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
        self._consumer = Consumer(pool, RebuildHandler(projection))
        self._share = share
        self._began = time.monotonic()
        self._resumed = False

    async def run(self, stop: asyncio.Event) -> AsyncIterator[Progress]:
        """Yields the progress after each batch; the last one is `finished`. After `stop`, any process can resume the
        rebuild by calling this again.

        Raises NotBeingBuilt when another process abandoned or replaced this rebuild.
        """
        start = await self._with_retries(stop, lambda: projections.begin_rebuild(self._pool, self._name))
        if start is None:
            return
        self._resumed = start.resumed
        yield await self._progress()
        while not stop.is_set():
            began = time.monotonic()
            if await self._step(stop, start.generation):
                progress = await self._progress()
                yield progress
                await self._rest(stop, time.monotonic() - began, progress.left)
            elif await self._caught_up(stop) and await self._finish(stop, start.generation):
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
        """False while another process holds the cursor and applies a batch."""
        now = await self._with_retries(stop, lambda: projections.generations(self._pool, self._name))
        builder = projections.builder(self._name)
        return now is None or now.building is None or not await log.backlog(self._pool, builder)

    async def _finish(self, stop: asyncio.Event, generation: int) -> bool:
        """False while the serving generation is ahead."""
        if await self._with_retries(stop, lambda: projections.finish_rebuild(self._pool, self._name)):
            return True
        return await self._serves(
            stop, generation
        )  # another process did it, or the reply to our commit was lost

    async def _serves(self, stop: asyncio.Event, generation: int) -> bool:
        """Whether this generation serves. Raises NotBeingBuilt when it neither serves nor is being built."""
        now = await self._with_retries(stop, lambda: projections.generations(self._pool, self._name))
        if now is not None and generation not in (now.serving, now.building):
            raise NotBeingBuilt(f"another process abandoned the rebuild of {self._name}")
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
        """Retries through transient errors. An error that needs an operator is raised immediately, for a person waits."""

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
