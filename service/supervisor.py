"""Owns every long-lived part. Each is `async def run(stop)`: it works until `stop` is set, drains, and returns.

      stages:   presence │ settlers │ dispatchers │ consumers, sequencers │ …
      start     ───────────────────────────────────────────────────────►
      stop      ◄───────────────────────────────────────────────────────   a stage stops when the one after it has

So parts that take work in stop first, and parts that write results stop last. A part that fails is restarted with backoff, and the
others are not affected. Readiness, metrics and the log read its failures from `failures`. When the whole stop takes longer than
`patience`, the rest is cancelled. What does not end even then (a driver that waits for a silent database) is left behind.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from schema.failures import FAILING_AFTER_S, RUN, Failures, enter_part
from schema.polling import sleep_unless

_logger = logging.getLogger(__name__)
PATIENCE_S = 22.0  # leaves time to cancel and exit within the 25 s of a stop
CANCEL_WITHIN_S = 1.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
WELL_AFTER_S = FAILING_AFTER_S
"""How long a part runs before a failure outside of a named operation counts as over."""


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
    def __init__(
        self,
        stages: Sequence[Sequence[Part]],
        failures: Failures | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`failures` is the process's record if others read it too."""
        self._stages = stages
        self._patience_s = patience_s
        self.failures = failures or Failures()
        for part in (part for stage in stages for part in stage):
            self.failures.part(part.name)

    async def run(self, stop: asyncio.Event) -> None:
        stages = [Stage(parts) for parts in self._stages]
        for stage in stages:
            stage.tasks = [
                asyncio.create_task(self._keep(part, stage.stop), name=part.name) for part in stage.parts
            ]
        try:
            await stop.wait()
            async with asyncio.timeout(self._patience_s):
                for stage in reversed(stages):
                    stage.stop.set()
                    await _ended(stage.tasks)
        except TimeoutError:
            _logger.error("stopping took longer than %.0f s; the rest is cancelled", self._patience_s)  # noqa: TRY400
        finally:
            await _cancel(stages)

    async def _keep(self, part: Part, stop: asyncio.Event) -> None:
        failures = self.failures.part(part.name)
        enter_part(failures)
        backoff = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            started = loop.time()
            well = loop.call_later(WELL_AFTER_S, failures.succeeded, RUN)
            try:
                await _run(part, stop)
            except Exception as error:  # noqa: BLE001  every error is reported and the part restarted
                well.cancel()  # a part that waits to start again is not well
                failures.ended_by(error)
                if loop.time() - started > _LONGEST_BACKOFF_S:
                    backoff = _FIRST_BACKOFF_S
                await sleep_unless(stop, backoff)
                backoff = min(_LONGEST_BACKOFF_S, backoff * 2)
            finally:
                well.cancel()


async def _run(part: Part, stop: asyncio.Event) -> None:
    await part.runs.run(stop)
    if not stop.is_set():
        raise RuntimeError(f"{part.name} ended without being stopped")


async def _cancel(stages: Sequence[Stage]) -> None:
    for stage in stages:
        stage.stop.set()  # an error instead of the cancellation must not restart the part
    tasks = [task for stage in stages for task in stage.tasks if not task.done()]
    for task in tasks:
        task.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WITHIN_S):
            await _ended(tasks)


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Unlike gather, this can be cancelled while a task does not end."""
    if tasks:
        await asyncio.wait(tasks)
