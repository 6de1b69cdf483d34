"""How fast a worker's projections follow the log, and what deliveries notice of one that is built anew."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Any, Final

from schema.errors import Unavailable
from service.bench.calibration import deliveries_for
from service.bench.drain import Drain, drain
from service.bench.finding import AtLeast, Finding
from service.bench.ground import Ground
from service.bench.mixture import make_log
from service.bench.numbers import ratio, ratios
from service.bench.process import Process, process
from service.bench.stage import MODE, SQL, Shape, Stage, stage
from service.projections import CONSUMERS, PROJECTIONS

AIM: Final = AtLeast(10_000)
REBUILD_AIM: Final = AtLeast(0.9)
MAIN: Final = Shape()
REBUILT: Final = "rollups"
_ASKED_EVERY_S: Final = 0.1
_STANDS_STILL_FOR_S: Final = 30.0


async def projections(ground: Ground, row: str) -> list[Finding]:
    """Every consumer of one worker at once, over a log that is there; nobody has an endpoint."""
    events = ground.scale.log_events
    async with stage(ground, Shape(fan_out=0)) as here:
        await make_log(here, events)
        async with ground.scratch.connect(here.name) as holder:
            holding = holder.transaction()
            await holding.start()
            await holder.fetch(SQL["hold_consumers"])
            async with here.worker() as worker:
                await holding.commit()
                began = await here.now()
                ended = await _consumed(here, worker, events)
    took = {name: (at - began).total_seconds() for name, at in ended.items()}
    slowest = max(took.values())
    return [
        Finding(
            row,
            f"events/s that {' and '.join(each.name for each in PROJECTIONS)} apply at once, one worker",
            "",
            events / slowest,
            AIM,
            "/s",
            figures={
                "events": events,
                **{f"{name}_per_s": events / seconds for name, seconds in took.items()},
            },
            shown=", ".join(f"{name} {events / seconds:,.0f}/s" for name, seconds in took.items()),
        )
    ]


async def _consumed(here: Stage, worker: Process, events: int) -> Mapping[str, Any]:
    """When each consumer had applied them all."""
    seen, moved = -1, time.monotonic()
    while True:
        rows = await here.owner.fetch(SQL["consumed"], list(CONSUMERS))
        if all(row["pos"] >= events for row in rows):
            return {row["name"]: row["moved_at"] for row in rows}
        done = sum(row["pos"] for row in rows)
        if done > seen:
            seen, moved = done, time.monotonic()
        elif time.monotonic() - moved > _STANDS_STILL_FOR_S:
            raise Unavailable(
                f"No consumer moved for {_STANDS_STILL_FOR_S:g} s. The worker: {worker.last_words}"
            )
        here.ground.watch(", ".join(f"{row['name']} {row['pos']:,}" for row in rows) + f" of {events:,}")
        await asyncio.sleep(_ASKED_EVERY_S)


async def rebuild(ground: Ground, row: str) -> list[Finding]:
    """Deliveries beside a rebuild at the default share, and without; then it goes on alone, at full speed."""
    events = ground.scale.log_events
    without: list[Drain] = []
    with_it: list[Drain] = []
    async with stage(ground, MAIN) as here:
        await make_log(here, events)
        await here.owner.execute(SQL["past_consumed"], events)
        for _ in range(ground.scale.pairs):
            without.append(await drain(here, await deliveries_for(ground, MAIN), note="without a rebuild"))
            beside = await _position(here)
            began = time.monotonic()
            async with _rebuilding(here, share=None) as at_work:
                with_it.append(await drain(here, await deliveries_for(ground, MAIN), note="beside a rebuild"))
                if not at_work.running:
                    raise Unavailable("The rebuild finished before the deliveries: it needs a longer log.")
                beside_rate = (await _position(here) - beside) / (time.monotonic() - began)
        before, began = await _position(here), time.monotonic()
        async with _rebuilding(here, share=100) as alone:
            told = await alone.hear(within_s=ground.scale.memory_within_s * 4)
        full_rate = (events - before) / (time.monotonic() - began)
    here_rate, there = median(d.rate for d in with_it), median(d.rate for d in without)
    return [
        Finding(
            row,
            f"deliveries/s beside a rebuild of {REBUILT} from {events:,} events",
            "without",
            ratio(here_rate, there),
            REBUILD_AIM,
            figures={
                "events": events,
                "rebuild_beside_per_s": beside_rate,
                "rebuild_alone_per_s": full_rate,
                "told_per_s": told["perSecond"],
                "with_per_s": [d.rate for d in with_it],
                "without_per_s": [d.rate for d in without],
            },
            shown=(
                f"{here_rate:,.0f}/s ; {there:,.0f}/s; rebuild {beside_rate:,.0f} events/s, "
                f"alone {full_rate:,.0f}/s"
            ),
            rounds=ratios([d.rate for d in with_it], [d.rate for d in without]),
        )
    ]


async def _position(here: Stage) -> int:
    (row,) = await here.owner.fetch(SQL["consumed"], [f"{REBUILT}_rebuild"])
    position: int = row["pos"]
    return position


@asynccontextmanager
async def _rebuilding(here: Stage, share: int | None) -> AsyncIterator[Process]:
    """Killed at the end if it is not over; the next one goes on from there."""
    arguments = ["-m", "service.cli", "consumers", "rebuild", REBUILT, "--mode", MODE.value, "--json"]
    if share is not None:
        arguments += ["--share", str(share)]
    async with process("rebuild", arguments, here.environment) as started:
        yield started
        started.kill()
