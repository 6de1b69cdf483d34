"""Runs the rows in order. A row that fails or exceeds its limit does not stop the others. The results so far are
saved after each row.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from schema.errors import DuroError
from service.bench.bench_database import Shape
from service.bench.bench_setup import Progress, bench_setup
from service.bench.processes.scratch_server import ScratchServer
from service.bench.report.machine import machine
from service.bench.report.measurement import Measurement
from service.bench.report.other_load import CpuSnapshot
from service.bench.row_table import Row
from service.bench.rows.pipeline import profiled
from service.bench.scale import Scale

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_PROFILE: Final = "profile"
_PROFILED_WITHIN_S: Final = 300.0


@dataclass
class Run:
    machine: dict[str, Any]
    quick: bool
    measurements: list[Measurement] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """The reason, by row."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each row."""
    other_load: dict[str, float] = field(default_factory=dict)
    """Share of the machine, from 0 to 1, that other processes used while a row was measured."""
    profile: str | None = None
    """The top lines, if --profile was given."""
    remaining: list[str] = field(default_factory=list)
    """Rows not yet measured. Not empty at the end if the run was stopped early."""


async def run_rows(
    scratch: ScratchServer,
    rows: Sequence[Row],
    scale: Scale,
    progress: Progress,
    *,
    profile: Path | None = None,
    save: Callable[[Run], None] = lambda _run: None,
) -> Run:
    run = Run({**machine(), "postgres": await scratch.prepare()}, scale.quick)
    run.remaining = [row.name for row in rows] + [_PROFILE] * (profile is not None)
    async with bench_setup(scratch, scale, progress) as setup:
        for number, row in enumerate(rows, 1):
            setup.progress = _prefixed(progress, f"{number}/{len(rows)} {row.name}: ")
            before = CpuSnapshot.now(setup)
            run.measurements += await _measure_within(run, row.name, row.within_s, row.measure(setup)) or []
            after = CpuSnapshot.now(setup)
            run.seconds[row.name] = after.at - before.at
            run.other_load[row.name] = after.other_load_since(before)
            run.remaining.remove(row.name)
            save(run)
        if profile is not None:
            setup.progress = _prefixed(progress, f"{_PROFILE}: ")
            run.profile = await _measure_within(
                run, _PROFILE, _PROFILED_WITHIN_S, profiled(setup, Shape(), profile)
            )
            run.remaining.remove(_PROFILE)
            save(run)
    return run


async def _measure_within(run: Run, name: str, within_s: float, measuring: Awaitable[T]) -> T | None:
    """Returns the row's result, or None after recording the reason in `run.failed`."""
    try:
        async with asyncio.timeout(within_s) as limit:
            return await measuring
    except DuroError as error:
        run.failed[name] = str(error)
    except Exception as error:  # a defect in one row must not discard the others' results
        if limit.expired():
            run.failed[name] = f"It exceeded its limit of {within_s:g} s."
        else:
            _logger.exception("row %s", name)
            run.failed[name] = f"{type(error).__name__}: {error}"
    return None


def _prefixed(progress: Progress, prefix: str) -> Progress:
    return lambda line: progress(prefix + line)
