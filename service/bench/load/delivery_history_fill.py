"""Fills a delivery history by SQL in large steps: events with positions, deliveries and attempts.

    events ─ event_log ─ webhook_deliveries ─ webhook_attempts        one statement per step
    then the sequencer and the cursors advance past it, so workers continue from there

All triggers and indexes stay in place. Afterwards it runs VACUUM (ANALYZE): a real history was vacuumed long ago,
and autovacuum would otherwise run during a measurement.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from service.bench.bench_database import SQL, BenchDatabase
from service.bench.load.payload import EVENT_TYPE

_STEP: Final = 20_000
_SESSIONS: Final = 2
_STEP_WITHIN_S: Final = 120.0
_VACUUM_WITHIN_S: Final = 900.0
_DATA: Final = (
    '{"invoiceId": "inv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6", "amount": 500000, "currency": "NGN", "note": "%s"}'
    % ("paid " * 20)
)


@dataclass(slots=True)
class _HistoryFill:
    deliveries: int
    status: Literal["delivered", "pending"]
    recipients: Sequence[tuple[UUID, UUID]]
    """(tenant, endpoint) pairs."""
    written: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def status_line(self) -> str:
        rate = self.written / max(time.monotonic() - self.began, 0.001)
        return f"filling the history: {self.written:,} of {self.deliveries:,} {self.status} deliveries, {rate:,.0f}/s"


async def fill_history(
    bench: BenchDatabase, deliveries: int, status: Literal["delivered", "pending"], of: Sequence[UUID]
) -> float:
    """Returns how many seconds it took. No worker may have run yet."""
    began = time.monotonic()
    rows = await bench.owner.fetch(SQL["recipients"], list(of))
    fill = _HistoryFill(deliveries, status, [(row["tenant_id"], row["endpoint_id"]) for row in rows])
    steps = iter(range(0, deliveries, _STEP))
    async with asyncio.TaskGroup() as filling:
        for _ in range(_SESSIONS):
            filling.create_task(_fill(bench, fill, steps))
    await bench.owner.execute(SQL["advance_sequencer"], deliveries)
    await bench.owner.execute(SQL["advance_consumers"], deliveries)
    bench.setup.progress(f"vacuuming {deliveries:,} past deliveries")
    await bench.owner.execute("VACUUM (ANALYZE)", timeout=_VACUUM_WITHIN_S)
    return time.monotonic() - began


async def _fill(bench: BenchDatabase, fill: _HistoryFill, steps: Iterator[int]) -> None:
    """Writes steps in turn with the other sessions, so rows are stored approximately in order of time."""
    tenants, endpoints = (list(column) for column in zip(*fill.recipients, strict=True))
    async with bench.setup.scratch.connect(bench.name) as session:
        month = await session.fetchrow(SQL["month"])
        assert month is not None
        statement = await session.prepare(SQL["history_step"])
        for done in steps:
            count = min(_STEP, fill.deliveries - done)
            of_all = (month["since"], month["until"], fill.deliveries, fill.status)
            await statement.fetchval(
                tenants, endpoints, EVENT_TYPE, _DATA, done + 1, count, *of_all, timeout=_STEP_WITHIN_S
            )
            fill.written += count
            bench.setup.progress(fill.status_line)
