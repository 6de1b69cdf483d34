"""A past, written by SQL in big steps: events with positions, deliveries, attempts, as if workers had made them.

    events ─ event_log ─ webhook_deliveries ─ webhook_attempts        one statement per step
    then the sequencer and the cursors move behind it, so workers go on from there

Nothing is switched off meanwhile and nothing dropped. Afterwards VACUUM (ANALYZE) and a checkpoint, because a real
past was vacuumed long ago, and autovacuum would otherwise do it in the middle of a measurement.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from service.bench.payload import EVENT_TYPE
from service.bench.stage import SQL, Stage

_STEP: Final = 20_000
_SESSIONS: Final = 2
_STEP_WITHIN_S: Final = 120.0
_VACUUM_WITHIN_S: Final = 900.0
_DATA: Final = (
    '{"invoiceId": "inv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6", "amount": 500000, "currency": "NGN", "note": "%s"}'
    % ("paid " * 20)
)


@dataclass(slots=True)
class _Past:
    deliveries: int
    status: Literal["delivered", "pending"]
    recipients: Sequence[tuple[UUID, UUID]]
    """Tenants and endpoints."""
    written: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def told(self) -> str:
        rate = self.written / max(time.monotonic() - self.began, 0.001)
        return (
            f"writing a past: {self.written:,} of {self.deliveries:,} {self.status} deliveries, {rate:,.0f}/s"
        )


async def make_past(
    stage: Stage, deliveries: int, status: Literal["delivered", "pending"], of: Sequence[UUID]
) -> float:
    """Before any worker has run. Returns how many seconds it took."""
    began = time.monotonic()
    rows = await stage.owner.fetch(SQL["recipients"], list(of))
    past = _Past(deliveries, status, [(row["tenant_id"], row["endpoint_id"]) for row in rows])
    steps = iter(range(0, deliveries, _STEP))
    async with asyncio.TaskGroup() as filling:
        for _ in range(_SESSIONS):
            filling.create_task(_fill(stage, past, steps))
    await stage.owner.execute(SQL["past_sequenced"], deliveries)
    await stage.owner.execute(SQL["past_consumed"], deliveries)
    stage.ground.watch(f"vacuuming {deliveries:,} past deliveries")
    await stage.owner.execute("VACUUM (ANALYZE)", timeout=_VACUUM_WITHIN_S)
    return time.monotonic() - began


async def _fill(stage: Stage, past: _Past, steps: Iterator[int]) -> None:
    """Sessions take the steps in turn, so that rows lie on disk about in the order of time."""
    tenants, endpoints = (list(column) for column in zip(*past.recipients, strict=True))
    async with stage.ground.scratch.connect(stage.name) as session:
        month = await session.fetchrow(SQL["month"])
        assert month is not None
        statement = await session.prepare(SQL["past"])
        for done in steps:
            count = min(_STEP, past.deliveries - done)
            of_all = (month["since"], month["until"], past.deliveries, past.status)
            await statement.fetchval(
                tenants, endpoints, EVENT_TYPE, _DATA, done + 1, count, *of_all, timeout=_STEP_WITHIN_S
            )
            past.written += count
            stage.ground.watch(past.told)
