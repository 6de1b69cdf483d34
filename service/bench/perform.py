"""The run from the first row to the last: one that fails or takes too long does not stop the others."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schema.errors import DuroError
from service.bench.catalog import Row
from service.bench.company import Moment
from service.bench.finding import Finding
from service.bench.ground import Ground, Watch, ground
from service.bench.machine import machine
from service.bench.rows.pipeline import profiled
from service.bench.scale import Scale
from service.bench.scratch import Scratch
from service.bench.stage import Shape

_logger = logging.getLogger(__name__)


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


async def perform(
    scratch: Scratch, rows: Sequence[Row], scale: Scale, watch: Watch, profile: Path | None = None
) -> Run:
    run = Run({**machine(), "postgres": await scratch.prepare()}, scale.quick)
    async with ground(scratch, scale, watch) as here:
        for number, row in enumerate(rows, 1):
            here.watch = _prefixed(watch, f"{number}/{len(rows)} {row.name}: ")
            before = Moment.now(here)
            await _measure(run, row, here)
            after = Moment.now(here)
            run.seconds[row.name] = after.at - before.at
            run.others[row.name] = after.others_since(before)
        if profile is not None:
            here.watch = _prefixed(watch, "profile: ")
            run.profile = await profiled(here, Shape(), profile)
    return run


async def _measure(run: Run, row: Row, here: Ground) -> None:
    try:
        async with asyncio.timeout(row.within_s) as limit:
            run.findings += await row.measure(here)
    except DuroError as error:
        run.failed[row.name] = str(error)
    except Exception as error:  # a defect in one row must not cost the others their half hour
        if limit.expired():
            run.failed[row.name] = f"It was given up after {row.within_s:g} s."
            return
        _logger.exception("row %s", row.name)
        run.failed[row.name] = f"{type(error).__name__}: {error}"


def _prefixed(watch: Watch, prefix: str) -> Watch:
    return lambda line: watch(prefix + line)
