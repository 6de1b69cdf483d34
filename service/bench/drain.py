"""One throughput measurement: workers start on a prepared backlog, all at the same moment.

    events recorded ─► workers running, sequencer held ─► released (t0) ─► all arrived ─► all settled

It yields two rates, and the lower one counts:

    arriving    between the tenth and the ninetieth percent of the arrivals at the receiver, as for the bare loop
    settled     from t0 until the last result is in the database: this includes the sequencer, fan-out, the slow
                first requests and the last batch
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from schema.errors import Unavailable
from service.bench.bench_database import SQL, BenchDatabase
from service.bench.bench_setup import BenchSetup
from service.bench.load.bench_receiver import Report
from service.bench.processes.bench_process import Process
from service.bench.processes.proc import cpu_s, tree_cpu_s

PATIENCE_S: Final = 30.0
_SETTLED_WITHIN_S: Final = 60.0
_ASKED_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class CpuPerDelivery:
    """Microseconds per delivery."""

    worker: float
    postgres: float
    receiver: float

    @property
    def duro(self) -> float:
        """Without the receiver, which is not part of duro."""
        return self.worker + self.postgres


@dataclass(frozen=True, slots=True)
class Drain:
    deliveries: int
    arriving: float
    """Per second."""
    settled: float
    cpu: CpuPerDelivery
    repeated: int
    """Requests in excess of one per delivery."""
    wire_bytes: float
    """Per request, including the head."""

    @property
    def rate(self) -> float:
        return min(self.arriving, self.settled)


@dataclass(frozen=True, slots=True)
class _CpuTotals:
    worker: float
    postgres: float
    receiver: float

    @classmethod
    def by(cls, setup: BenchSetup, workers: Sequence[Process]) -> "_CpuTotals":
        return cls(
            sum(cpu_s(worker.pid) for worker in workers),
            tree_cpu_s(setup.scratch.postmaster),
            cpu_s(setup.receiver.process.pid),
        )

    def since(self, before: "_CpuTotals", deliveries: int) -> CpuPerDelivery:
        each = 1e6 / deliveries
        return CpuPerDelivery(
            (self.worker - before.worker) * each,
            (self.postgres - before.postgres) * each,
            (self.receiver - before.receiver) * each,
        )


def arrival_rate(report: Report) -> float:
    """Returns arrivals per second without the ramps at both ends. Raises Unavailable if there are too few."""
    between = report.count * 9 // 10 - report.count // 10
    if report.at_90_ns <= report.at_10_ns:
        raise Unavailable(f"{report.count} arrivals are too few to compute a rate.")
    return between / (report.at_90_ns - report.at_10_ns) * 1e9


@asynccontextmanager
async def hold_sequencer(bench: BenchDatabase) -> AsyncIterator[asyncio.Event]:
    """Holds the sequencer until the yielded event is set. The idle transaction has no snapshot, so it blocks neither
    the vacuum horizon nor producers.
    """
    release, locked = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with bench.setup.scratch.connect(bench.name) as connection, connection.transaction():
            await connection.execute(SQL["hold_sequencer"])
            locked.set()
            await release.wait()

    holding = asyncio.create_task(hold())
    waiting = asyncio.create_task(locked.wait())
    await asyncio.wait((holding, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield release
        release.set()
        await holding
    finally:
        holding.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)


async def drain(
    bench: BenchDatabase, deliveries: int, *, workers: int = 1, profile: Path | None = None, note: str = ""
) -> Drain:
    events = max(deliveries // bench.shape.fan_out, 1)
    async with AsyncExitStack() as stack:
        release = await stack.enter_async_context(hold_sequencer(bench))
        since = await bench.now()
        await bench.record(events)
        running_workers = [await stack.enter_async_context(bench.worker(profile)) for _ in range(workers)]
        return await measure(bench, running_workers, release, since, events * bench.shape.fan_out, note)


async def measure(
    bench: BenchDatabase,
    workers: Sequence[Process],
    release: asyncio.Event,
    since: datetime,
    deliveries: int,
    note: str,
) -> Drain:
    """Measures from the release until all `deliveries` of events recorded after `since` are settled."""
    receiver = bench.setup.receiver
    await receiver.reset()
    before, began = _CpuTotals.by(bench.setup, workers), time.time()
    release.set()
    counted = f"duro{note and ' ' + note}: {{:,}} of {deliveries:,} deliveries"
    if not await receiver.wait_for_count(
        deliveries, PATIENCE_S, lambda seen: bench.setup.progress(counted.format(seen))
    ):
        output = " ".join(worker.last_output for worker in workers)
        raise Unavailable(f"Nothing arrived for {PATIENCE_S:g} s during a measurement. The worker: {output}")
    await wait_settled(bench, since)
    spent = _CpuTotals.by(bench.setup, workers).since(before, deliveries)
    outcome = await bench.owner.fetchrow(SQL["outcome"], bench.tenants, since)
    assert outcome is not None
    if outcome["delivered"] != deliveries:
        raise Unavailable(
            f"Only {outcome['delivered']} of {deliveries} deliveries succeeded, so the rate is not valid."
        )
    report = await receiver.report()
    return Drain(
        deliveries,
        arrival_rate(report),
        deliveries / (outcome["settled_at"].timestamp() - began),
        spent,
        report.count - deliveries,
        report.wire_bytes / report.count,
    )


async def wait_settled(bench: BenchDatabase, since: datetime) -> None:
    """Waits until every delivery of the answering tenants' events after `since` is settled."""
    deadline = asyncio.get_running_loop().time() + _SETTLED_WITHIN_S
    while await bench.owner.fetchval(SQL["unsettled"], bench.tenants, since):
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Deliveries were still unsettled {_SETTLED_WITHIN_S:g} s after the last arrival."
            )
        await asyncio.sleep(_ASKED_EVERY_S)
