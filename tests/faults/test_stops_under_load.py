"""Workers stop under load, with hanging receivers, and while the database is unavailable."""

import asyncio
import signal
from zlib import crc32

import pytest

from tests.faults.fault_receiver import Answer, fault_receiver, mostly_successful
from tests.faults.figures import Figures
from tests.faults.length import FULL, SLACK_S, length
from tests.faults.scenario import scenario
from tests.faults.worker_group import WorkerGroup, environment, worker_group
from tests.support.servers.tcp_proxy import TcpProxy, proxying

DELIVERIES = length(1_000, 20_000)
DRAINED_WITHIN_S = 25.0
"""The product's documented limit."""
ATTEMPT_TIMEOUT = length("1s", "60s")
"""In the full length the receivers hang longer than the drain limit and are aborted."""
FOR_EVER_S = 3600.0


def hanging(path: str, event_id: str, nth: int) -> Answer:
    """Never answers one request in sixty. The next one for the same delivery is answered."""
    if nth == 1 and crc32(f"hangs {event_id}".encode()) % 60 == 0:
        return Answer(504, after_s=FOR_EVER_S)
    return mostly_successful(path, event_id, nth)


async def stop_all(workers: WorkerGroup) -> float:
    """Stops all workers together. Returns how long the last one took. Each must exit with 0."""
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    for member in workers.members:
        member.process.send(signal.SIGTERM)
    statuses = await asyncio.gather(
        *(member.process.ended(DRAINED_WITHIN_S + SLACK_S) for member in workers.members)
    )
    assert statuses == [0] * len(statuses)
    return loop.time() - asked_at


async def test_workers_stopped_under_load_drain_in_time(db_url: str, key: bytes, figures: Figures) -> None:
    """Deliveries that hang at the end of the drain are released and sent by the next worker.

    Answered ones are not.
    """
    async with fault_receiver(hanging) as receiver, scenario(db_url, key, receiver, figures) as run:
        env = environment(run, DURO_ATTEMPT_TIMEOUT=ATTEMPT_TIMEOUT)
        async with worker_group(run, 2, env) as workers:
            producing = run.produce(DELIVERIES)
            await receiver.until(lambda: len(receiver.requests) >= DELIVERIES / 2, "half of the deliveries")
            took = await stop_all(workers)
            assert await run.leased() == 0
            assert await run.workers() == set()
            assert not any("Traceback" in member.process.stderr for member in workers.members)
        figures.count("stops", 2)
        figures.notes.append(f"drained in {took:.1f} s")
        async with worker_group(run, 2, env) as workers:
            await producing
            await run.check_deliveries(workers.workers)


@pytest.mark.parametrize(
    "outage",
    [
        "down",
        pytest.param(
            "silent", marks=pytest.mark.skipif(not FULL, reason="takes half a minute; run make soak")
        ),
    ],
)
async def test_a_worker_stopped_during_an_outage_ends_in_time(
    db_url: str, key: bytes, figures: Figures, outage: str
) -> None:
    """The next worker takes over what it could not settle. That may be repeated."""
    async with (
        fault_receiver() as receiver,
        scenario(db_url, key, receiver, figures) as run,
        proxying(run.url) as proxy,
    ):
        async with worker_group(run, 1, environment(run, proxy.url(run.url))) as workers:
            producing = run.produce(DELIVERIES)
            await receiver.until(lambda: len(receiver.requests) >= DELIVERIES / 2, "half of the deliveries")
            _begin(outage, proxy)
            figures.in_flight += await run.leased()
            took = await stop_all(workers)
        figures.count("stops")
        figures.notes.append(f"ended in {took:.1f} s")
        proxy.restore()
        async with worker_group(run, 2) as workers:
            await producing
            await run.check_deliveries(workers.workers)


def _begin(outage: str, proxy: TcpProxy) -> None:
    if outage == "down":
        proxy.shut_down()
    else:
        proxy.stop_forwarding()
