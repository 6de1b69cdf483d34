"""Measures how fast a worker's projections apply the log, and deliveries during a rebuild of a projection."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Any, Final

from schema.errors import Unavailable
from service.bench.bench_database import MODE, SQL, BenchDatabase, Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.calibration import deliveries_for
from service.bench.drain import Drain, drain
from service.bench.load.event_log_fill import fill_event_log
from service.bench.processes.bench_process import Process, process
from service.bench.report.measurement import AtLeast, Measurement
from service.bench.report.numbers import ratio, ratios
from service.worker.projection_consumers import CONSUMERS, PROJECTIONS

AIM: Final = AtLeast(10_000)
REBUILD_AIM: Final = AtLeast(0.9)
MAIN: Final = Shape()
REBUILT: Final = "rollups"
_ASKED_EVERY_S: Final = 0.1
_STALLED_AFTER_S: Final = 30.0


async def projections(setup: BenchSetup, row: str) -> list[Measurement]:
    """Runs all consumers of one worker over an existing log. No tenant has an endpoint."""
    events = setup.scale.log_events
    async with bench_database(setup, Shape(fan_out=0)) as bench:
        await fill_event_log(bench, events)
        async with setup.scratch.connect(bench.name) as holder:
            holding = holder.transaction()
            await holding.start()
            await holder.fetch(SQL["hold_consumers"])
            async with bench.worker() as worker:
                await holding.commit()
                began = await bench.now()
                ended = await _consumed(bench, worker, events)
    took = {name: (at - began).total_seconds() for name, at in ended.items()}
    slowest = max(took.values())
    return [
        Measurement(
            row,
            f"events/s that {' and '.join(each.name for each in PROJECTIONS)} apply concurrently, one worker",
            "",
            events / slowest,
            AIM,
            "/s",
            figures={
                "events": events,
                **{f"{name}_per_s": events / seconds for name, seconds in took.items()},
            },
            summary=", ".join(f"{name} {events / seconds:,.0f}/s" for name, seconds in took.items()),
        )
    ]


async def _consumed(bench: BenchDatabase, worker: Process, events: int) -> Mapping[str, Any]:
    """Returns when each consumer had applied all events."""
    seen, moved = -1, time.monotonic()
    while True:
        rows = await bench.owner.fetch(SQL["consumed"], list(CONSUMERS))
        if all(row["pos"] >= events for row in rows):
            return {row["name"]: row["moved_at"] for row in rows}
        done = sum(row["pos"] for row in rows)
        if done > seen:
            seen, moved = done, time.monotonic()
        elif time.monotonic() - moved > _STALLED_AFTER_S:
            raise Unavailable(
                f"No consumer advanced for {_STALLED_AFTER_S:g} s. The worker: {worker.last_output}"
            )
        bench.setup.progress(", ".join(f"{row['name']} {row['pos']:,}" for row in rows) + f" of {events:,}")
        await asyncio.sleep(_ASKED_EVERY_S)


async def rebuild(setup: BenchSetup, row: str) -> list[Measurement]:
    """Compares deliveries with and without a rebuild at the default share.

    Then the rebuild finishes at full speed.
    """
    events = setup.scale.log_events
    without: list[Drain] = []
    with_it: list[Drain] = []
    async with bench_database(setup, MAIN) as bench:
        await fill_event_log(bench, events)
        await bench.owner.execute(SQL["advance_consumers"], events)
        for _ in range(setup.scale.pairs):
            without.append(await drain(bench, await deliveries_for(setup, MAIN), note="without a rebuild"))
            beside = await _position(bench)
            began = time.monotonic()
            async with _rebuilding(bench, share=None) as rebuild_process:
                with_it.append(await drain(bench, await deliveries_for(setup, MAIN), note="beside a rebuild"))
                if not rebuild_process.running:
                    raise Unavailable("The rebuild finished before the deliveries. It needs a longer log.")
                beside_rate = (await _position(bench) - beside) / (time.monotonic() - began)
        before, began = await _position(bench), time.monotonic()
        async with _rebuilding(bench, share=100) as alone:
            result = await alone.read(within_s=setup.scale.memory_within_s * 4)
        full_rate = (events - before) / (time.monotonic() - began)
    with_rate, without_rate = median(d.rate for d in with_it), median(d.rate for d in without)
    return [
        Measurement(
            row,
            f"deliveries/s beside a rebuild of {REBUILT} from {events:,} events",
            "without",
            ratio(with_rate, without_rate),
            REBUILD_AIM,
            figures={
                "events": events,
                "rebuild_beside_per_s": beside_rate,
                "rebuild_alone_per_s": full_rate,
                "rebuild_reported_per_s": result["perSecond"],
                "with_per_s": [d.rate for d in with_it],
                "without_per_s": [d.rate for d in without],
            },
            summary=(
                f"{with_rate:,.0f}/s ; {without_rate:,.0f}/s; rebuild {beside_rate:,.0f} events/s, "
                f"alone {full_rate:,.0f}/s"
            ),
            rounds=ratios([d.rate for d in with_it], [d.rate for d in without]),
        )
    ]


async def _position(bench: BenchDatabase) -> int:
    (row,) = await bench.owner.fetch(SQL["consumed"], [f"{REBUILT}_rebuild"])
    position: int = row["pos"]
    return position


@asynccontextmanager
async def _rebuilding(bench: BenchDatabase, share: int | None) -> AsyncIterator[Process]:
    """Runs a rebuild and kills it at the end if it is unfinished.

    The next one continues from its position.
    """
    arguments = ["-m", "service.cli", "consumers", "rebuild", REBUILT, "--mode", MODE.value, "--json"]
    if share is not None:
        arguments += ["--share", str(share)]
    async with process("rebuild", arguments, bench.environment) as started:
        yield started
        started.kill()
