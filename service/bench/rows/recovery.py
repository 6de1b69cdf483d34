"""SIGKILL to one of two workers in the middle of a backlog: how long until what it held has been settled?"""

import asyncio
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.errors import Unavailable
from service.bench.calibration import deliveries_for
from service.bench.drain import PATIENCE_S, held_back
from service.bench.finding import AtMost, Finding
from service.bench.ground import Ground
from service.bench.process import Process
from service.bench.stage import SQL, Shape, Stage, stage

AIM: Final = AtMost(10, "s")
_LEAST: Final = 10_000
_WITHIN_S: Final = 60.0
_ASKED_EVERY_S: Final = 0.1


async def recovery(ground: Ground, row: str) -> list[Finding]:
    total = max(await deliveries_for(ground, Shape()), _LEAST)
    async with stage(ground, Shape()) as here, held_back(here) as let_go:
        await here.record(total)
        async with here.worker() as victim, here.worker():
            await ground.receiver.forget()
            let_go.set()
            if not await ground.receiver.reaches(total // 3, PATIENCE_S, lambda _seen: None):
                raise Unavailable("The two workers delivered nothing, so there was nothing to recover from.")
            held, killed_at = await _kill(here, victim)
            ground.watch(f"recovery: a worker was killed that held {len(held):,} deliveries")
            recovered = await _recovered(here, held, killed_at)
    settled_s = (recovered["settled_at"] - killed_at).total_seconds()
    first_s = (recovered["first_at"] - killed_at).total_seconds()
    return [
        Finding(
            row,
            "from SIGKILL of one of two workers until all it held was settled",
            "",
            settled_s,
            AIM,
            "s",
            {"settled_s": settled_s, "first_sent_s": first_s, "held": len(held)},
            f"{len(held)} held; the first sent again after {first_s:.2f} s, the last settled after {settled_s:.2f} s",
        )
    ]


async def _kill(stage: Stage, victim: Process) -> tuple[list[UUID], datetime]:
    """What it held when it died, and when that was."""
    worker_id = await stage.owner.fetchval(SQL["worker_of"], str(victim.pid))
    killed_at = await stage.now()
    victim.kill()
    held = [row["id"] for row in await stage.owner.fetch(SQL["held"], worker_id)]
    if not held:
        raise Unavailable("The killed worker held nothing at that moment; measure again.")
    return held, killed_at


async def _recovered(stage: Stage, held: list[UUID], killed_at: datetime) -> dict[str, Any]:
    deadline = asyncio.get_running_loop().time() + _WITHIN_S
    while True:
        row: asyncpg.Record | None = await stage.owner.fetchrow(SQL["recovered"], held, killed_at)
        assert row is not None
        if not row["pending"]:
            return dict(row)
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"{row['pending']} of {len(held)} deliveries were not settled within {_WITHIN_S:g} s."
            )
        await asyncio.sleep(_ASKED_EVERY_S)
