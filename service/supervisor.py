"""Owns every long-lived thing. Each is `async def run(stop)`: it works until `stop` is set, drains, and returns.

      stages:   presence │ settlers │ dispatchers │ consumers, sequencers │ …
      start     ───────────────────────────────────────────────────────►
      stop      ◄───────────────────────────────────────────────────────   a stage stops when the one after it has

So what takes work in stops first and what writes results last. A part that fails is started again with backoff,
alone: the others do not notice. When the whole stop takes longer than `patience`, the rest is cancelled.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schema.polling import sleep_unless

_logger = logging.getLogger(__name__)
PATIENCE_S = 24.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0


class Runs(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


@dataclass(frozen=True)
class Part:
    name: str
    runs: Runs


@dataclass
class Stage:
    parts: Sequence[Part]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Supervisor:
    def __init__(self, stages: Sequence[Sequence[Part]]) -> None:
        self._stages = [Stage(parts) for parts in stages]
        self.restarts = 0

    async def run(self, stop: asyncio.Event) -> None:
        for stage in self._stages:
            stage.tasks = [
                asyncio.create_task(self._keep(part, stage.stop), name=part.name) for part in stage.parts
            ]
        try:
            await stop.wait()
            async with asyncio.timeout(PATIENCE_S):
                for stage in reversed(self._stages):
                    stage.stop.set()
                    await asyncio.gather(*stage.tasks)
        except TimeoutError:
            _logger.error("stopping took longer than %.0f s; the rest is cut off", PATIENCE_S)  # noqa: TRY400
        finally:
            await self._cancel()

    async def _cancel(self) -> None:
        tasks = [task for stage in self._stages for task in stage.tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, part: Part, stop: asyncio.Event) -> None:
        backoff = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            started = loop.time()
            try:
                await part.runs.run(stop)
            except Exception:
                self.restarts += 1
                if loop.time() - started > _LONGEST_BACKOFF_S:
                    backoff = _FIRST_BACKOFF_S
                _logger.exception("%s failed; it is started again in %.1f s", part.name, backoff)
                await sleep_unless(stop, backoff)
                backoff = min(_LONGEST_BACKOFF_S, backoff * 2)
