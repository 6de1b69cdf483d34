"""One measurement of throughput: a backlog, and workers that have just been let at it.

    events recorded ─► workers at work, but held back ─► let go (t0) ─► all arrived ─► all settled

Two figures come of it, and the lower one counts:

    arriving    between the tenth and the ninetieth percent of the arrivals at the receiver, as for the bare loop
    settled     from t0 until the database knew the last result: the sequencer and fan-out's head start, the slow
                first requests and the last batch are all in it
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
from service.bench.ground import Ground
from service.bench.proc import cpu_s, tree_cpu_s
from service.bench.process import Process
from service.bench.receiver import Report
from service.bench.stage import SQL, Stage

PATIENCE_S: Final = 30.0
_SETTLED_WITHIN_S: Final = 60.0
_ASKED_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Cpu:
    """Microseconds per delivery."""

    worker: float
    postgres: float
    receiver: float

    @property
    def ours(self) -> float:
        """All but the receiver's, which is not duro's."""
        return self.worker + self.postgres


@dataclass(frozen=True, slots=True)
class Drain:
    deliveries: int
    arriving: float
    """Per second."""
    settled: float
    cpu: Cpu
    repeated: int
    """Requests beyond one per delivery."""
    wire_bytes: float
    """Per request, head included."""

    @property
    def rate(self) -> float:
        return min(self.arriving, self.settled)


@dataclass(frozen=True, slots=True)
class _Spent:
    worker: float
    postgres: float
    receiver: float

    @classmethod
    def by(cls, ground: Ground, workers: Sequence[Process]) -> "_Spent":
        return cls(
            sum(cpu_s(worker.pid) for worker in workers),
            tree_cpu_s(ground.scratch.postmaster),
            cpu_s(ground.receiver.process.pid),
        )

    def since(self, before: "_Spent", deliveries: int) -> Cpu:
        each = 1e6 / deliveries
        return Cpu(
            (self.worker - before.worker) * each,
            (self.postgres - before.postgres) * each,
            (self.receiver - before.receiver) * each,
        )


def arrival_rate(report: Report) -> float:
    """Per second, without the ramps at both ends. Raises Unavailable for too few to tell."""
    between = report.count * 9 // 10 - report.count // 10
    if report.at_90_ns <= report.at_10_ns:
        raise Unavailable(f"{report.count} arrivals are too few to tell a rate from.")
    return between / (report.at_90_ns - report.at_10_ns) * 1e9


@asynccontextmanager
async def held_back(stage: Stage) -> AsyncIterator[asyncio.Event]:
    """Nothing is sequenced until the event yielded is set. An idle transaction without a snapshot: it holds up
    neither the horizon nor any producer.
    """
    let_go, locked = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with stage.ground.scratch.connect(stage.name) as connection, connection.transaction():
            await connection.execute(SQL["hold_back"])
            locked.set()
            await let_go.wait()

    holding = asyncio.create_task(hold())
    waiting = asyncio.create_task(locked.wait())
    await asyncio.wait((holding, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield let_go
        let_go.set()
        await holding
    finally:
        holding.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)


async def drain(
    stage: Stage, deliveries: int, *, workers: int = 1, profile: Path | None = None, note: str = ""
) -> Drain:
    events = max(deliveries // stage.shape.fan_out, 1)
    async with AsyncExitStack() as stack:
        let_go = await stack.enter_async_context(held_back(stage))
        since = await stage.now()
        await stage.record(events)
        at_work = [await stack.enter_async_context(stage.worker(profile)) for _ in range(workers)]
        return await measure(stage, at_work, let_go, since, events * stage.shape.fan_out, note)


async def measure(
    stage: Stage,
    workers: Sequence[Process],
    let_go: asyncio.Event,
    since: datetime,
    deliveries: int,
    note: str,
) -> Drain:
    """From letting go to the last settlement of `deliveries` made for events since then."""
    receiver = stage.ground.receiver
    await receiver.forget()
    before, began = _Spent.by(stage.ground, workers), time.time()
    let_go.set()
    counted = f"duro{note and ' ' + note}: {{:,}} of {deliveries:,} deliveries"
    if not await receiver.reaches(
        deliveries, PATIENCE_S, lambda seen: stage.ground.watch(counted.format(seen))
    ):
        said = " ".join(worker.last_words for worker in workers)
        raise Unavailable(
            f"Nothing arrived for {PATIENCE_S:g} s in the middle of a measurement. The worker: {said}"
        )
    await settled(stage, since)
    spent = _Spent.by(stage.ground, workers).since(before, deliveries)
    outcome = await stage.owner.fetchrow(SQL["outcome"], stage.tenants, since)
    assert outcome is not None
    if outcome["delivered"] != deliveries:
        raise Unavailable(
            f"{outcome['delivered']} of {deliveries} deliveries were delivered; the rate of a faulty run says nothing."
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


async def settled(stage: Stage, since: datetime) -> None:
    """Waits until nothing of the answering tenants' events since then is left to be settled."""
    deadline = asyncio.get_running_loop().time() + _SETTLED_WITHIN_S
    while await stage.owner.fetchval(SQL["unsettled"], stage.tenants, since):
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Deliveries were still unsettled {_SETTLED_WITHIN_S:g} s after the last arrival."
            )
        await asyncio.sleep(_ASKED_EVERY_S)
