"""The network between workers and the database fails: resets at any point, lost answers, and silence.

Each worker reaches the database through its own proxy.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import FULL, length
from tests.faults.registered import has_new_id, id_of
from tests.faults.scenario import Scenario, scenario
from tests.faults.worker_group import WorkerGroup, WorkerProcess, environment, taken_over, worker_group
from tests.support.servers.duro_process import eventually
from tests.support.servers.tcp_proxy import Cut, TcpProxy, proxying

DELIVERIES = length(1_500, 40_000)
CUTS = length(12, 120)
LATENCY_S = 0.003
# What a connection sends when it is cut. A statement's text is sent when a connection prepares it, so a new
# connection sends it again. COPY, for large batches, and COMMIT are sent as text each time.
FAN_OUT = (b"INSERT INTO webhook_deliveries", b'COPY "webhook_deliveries"')
CLAIM = b"FOR UPDATE SKIP LOCKED"
SETTLE = (b"INSERT INTO webhook_attempts", b'COPY "webhook_attempts"')
COMMIT = b"COMMIT"
# If the answer to a commit is lost, the worker does not know the leases it got. Its audit finds them within a
# minute, which only the full length waits for.
WHERE = [Cut.BEFORE, Cut.AFTER] if FULL else [Cut.BEFORE]
WORDS = [FAN_OUT, CLAIM, SETTLE, COMMIT, COMMIT]


@dataclass(frozen=True)
class ProxiedWorker:
    member: WorkerProcess
    proxy: TcpProxy


@asynccontextmanager
async def proxied_workers(
    run: Scenario, workers: WorkerGroup, count: int
) -> AsyncIterator[list[ProxiedWorker]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            proxy = await stack.enter_async_context(proxying(run.url))
            member = await workers.start_worker(environment(run, proxy.url(run.url)))
            found.append(ProxiedWorker(member, proxy))
        yield found


async def test_cut_connections_lose_and_repeat_nothing(db_url: str, key: bytes, figures: Figures) -> None:
    """A worker that reconnects soon keeps its leases, so it finishes what it had begun."""
    async with (
        fault_receiver() as receiver,
        scenario(db_url, key, receiver, figures) as run,
        worker_group(run, 0) as workers,
        proxied_workers(run, workers, 2) as proxied,
    ):
        for one in proxied:
            one.proxy.latency_s = LATENCY_S
        producing = run.produce(DELIVERIES)
        for nth in range(CUTS):
            moment = DELIVERIES * (nth + run.chance.uniform(0.1, 0.9)) / CUTS
            await receiver.until(
                lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
            )
            proxy = run.chance.choice(proxied).proxy
            if FULL and run.chance.random() < 0.2:
                proxy.cut()
                figures.count("resets of all connections of a worker")
            else:
                proxy.cut_at(run.chance.choice(WORDS), run.chance.choice(WHERE))
        await producing
        for one in proxied:
            one.proxy.cut_at(b"", Cut.BEFORE)
            await one.proxy.was_cut.wait()
            figures.count("cuts", one.proxy.cuts)
        await run.check_deliveries({one.member.worker for one in proxied})


async def test_a_silently_disconnected_worker_is_taken_over(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """No connection is reset.

    The silence starts during its fan-out, with the cursor locked, and ends later.
    """
    async with (
        fault_receiver() as receiver,
        scenario(db_url, key, receiver, figures) as run,
        worker_group(run, 1) as workers,
        proxied_workers(run, workers, 1) as (proxied,),
    ):
        await run.produce(DELIVERIES // 10)
        producing = run.produce(DELIVERIES)
        proxied.proxy.cut_at(FAN_OUT, Cut.SILENCE)
        async with asyncio.timeout(30):
            await proxied.proxy.was_cut.wait()
        silent_at = asyncio.get_running_loop().time()
        figures.count("silences")
        figures.in_flight += await run.leased(proxied.member.worker)
        await taken_over(run, proxied.member.worker, silent_at)
        await producing
        await run.arrived()
        proxied.proxy.restore()
        await eventually(lambda: has_new_id(run, proxied.member), "it has registered with a new id")
        await run.produce(100)
        living = {await id_of(run, member) for member in workers.members}
        await run.check_deliveries({worker for worker in living if worker is not None})
