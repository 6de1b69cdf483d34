"""Measures how long the deliveries of a killed worker take to settle.

SIGKILL hits one of two workers mid-backlog.
"""

import asyncio
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.errors import Unavailable
from service.bench.bench_database import SQL, BenchDatabase, Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.calibration import deliveries_for
from service.bench.drain import PATIENCE_S, hold_sequencer
from service.bench.processes.bench_process import Process
from service.bench.report.measurement import AtMost, Measurement

AIM: Final = AtMost(10, "s")
_LEAST: Final = 10_000
_WITHIN_S: Final = 60.0
_ASKED_EVERY_S: Final = 0.1


async def recovery(setup: BenchSetup, row: str) -> list[Measurement]:
    total = max(await deliveries_for(setup, Shape()), _LEAST)
    async with bench_database(setup, Shape()) as bench, hold_sequencer(bench) as release:
        await bench.record(total)
        async with bench.worker() as victim, bench.worker():
            await setup.receiver.reset()
            release.set()
            if not await setup.receiver.wait_for_count(total // 3, PATIENCE_S, lambda _seen: None):
                raise Unavailable("The two workers delivered nothing, so recovery cannot be measured.")
            held, killed_at = await _kill(bench, victim)
            setup.progress(f"recovery: killed a worker with {len(held):,} leased deliveries")
            recovered = await _recovered(bench, held, killed_at)
    settled_s = (recovered["settled_at"] - killed_at).total_seconds()
    first_s = (recovered["first_at"] - killed_at).total_seconds()
    return [
        Measurement(
            row,
            "from SIGKILL of one of two workers until all its deliveries were settled",
            "",
            settled_s,
            AIM,
            "s",
            {"settled_s": settled_s, "first_sent_s": first_s, "held": len(held)},
            f"{len(held)} leased; the first retried after {first_s:.2f} s, the last settled after {settled_s:.2f} s",
        )
    ]


async def _kill(bench: BenchDatabase, victim: Process) -> tuple[list[UUID], datetime]:
    """Kills the worker. Returns the deliveries it had leased, and the time."""
    worker_id = await bench.owner.fetchval(SQL["worker_of"], str(victim.pid))
    killed_at = await bench.now()
    victim.kill()
    held = [row["id"] for row in await bench.owner.fetch(SQL["held"], worker_id)]
    if not held:
        raise Unavailable("The killed worker had no leased deliveries. Run the row again.")
    return held, killed_at


async def _recovered(bench: BenchDatabase, held: list[UUID], killed_at: datetime) -> dict[str, Any]:
    deadline = asyncio.get_running_loop().time() + _WITHIN_S
    while True:
        row: asyncpg.Record | None = await bench.owner.fetchrow(SQL["recovered"], held, killed_at)
        assert row is not None
        if not row["pending"]:
            return dict(row)
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"{row['pending']} of {len(held)} deliveries were not settled within {_WITHIN_S:g} s."
            )
        await asyncio.sleep(_ASKED_EVERY_S)
