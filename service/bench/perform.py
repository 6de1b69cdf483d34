"""The run from the first row to the last: one that fails or takes too long does not stop the others, and after each
the figures so far are handed to whoever keeps them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from schema.errors import DuroError
from service.bench.catalog import Row
from service.bench.company import Moment
from service.bench.finding import Finding
from service.bench.ground import Watch, ground
from service.bench.machine import machine
from service.bench.rows.pipeline import profiled
from service.bench.scale import Scale
from service.bench.scratch import Scratch
from service.bench.stage import Shape

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_PROFILE: Final = "profile"
_PROFILED_WITHIN_S: Final = 300.0


@dataclass
class Run:
    machine: dict[str, Any]
    quick: bool
    findings: list[Finding] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by row."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each row took."""
    others: dict[str, float] = field(default_factory=dict)
    """The share of the machine, from 0 to 1, that processes of others took while a row was measured."""
    profile: str | None = None
    """The top lines, when one was asked for."""
    to_do: list[str] = field(default_factory=list)
    """What is still to be measured: empty at the end, unless something ended the run early."""


async def perform(
    scratch: Scratch,
    rows: Sequence[Row],
    scale: Scale,
    watch: Watch,
    *,
    profile: Path | None = None,
    keep: Callable[[Run], None] = lambda _run: None,
) -> Run:
    run = Run({**machine(), "postgres": await scratch.prepare()}, scale.quick)
    run.to_do = [row.name for row in rows] + [_PROFILE] * (profile is not None)
    async with ground(scratch, scale, watch) as here:
        for number, row in enumerate(rows, 1):
            here.watch = _prefixed(watch, f"{number}/{len(rows)} {row.name}: ")
            before = Moment.now(here)
            run.findings += await _guarded(run, row.name, row.within_s, row.measure(here)) or []
            after = Moment.now(here)
            run.seconds[row.name] = after.at - before.at
            run.others[row.name] = after.others_since(before)
            run.to_do.remove(row.name)
            keep(run)
        if profile is not None:
            here.watch = _prefixed(watch, f"{_PROFILE}: ")
            run.profile = await _guarded(run, _PROFILE, _PROFILED_WITHIN_S, profiled(here, Shape(), profile))
            run.to_do.remove(_PROFILE)
            keep(run)
    return run


async def _guarded(run: Run, name: str, within_s: float, measuring: Awaitable[T]) -> T | None:
    """What comes of it, or None and a word in `run.failed`."""
    try:
        async with asyncio.timeout(within_s) as limit:
            return await measuring
    except DuroError as error:
        run.failed[name] = str(error)
    except Exception as error:  # a defect in one row must not cost the others their half hour
        if limit.expired():
            run.failed[name] = f"It was given up after {within_s:g} s."
        else:
            _logger.exception("row %s", name)
            run.failed[name] = f"{type(error).__name__}: {error}"
    return None


def _prefixed(watch: Watch, prefix: str) -> Watch:
    return lambda line: watch(prefix + line)
