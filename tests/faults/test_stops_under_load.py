"""Workers are asked to stop while they have everything to do, with receivers that hang, and while there is no database."""

import asyncio
import signal
from zlib import crc32

import pytest

from tests.faults.crew import Crew, crew, environment
from tests.faults.figures import Figures
from tests.faults.length import FULL, SLACK_S, length
from tests.faults.merchant import Answer, human, merchant
from tests.faults.world import world
from tests.support.servers.tcp_proxy import TcpProxy, proxying

DELIVERIES = length(1_000, 20_000)
DRAINED_WITHIN_S = 25.0
"""A promise of the product."""
ATTEMPT_TIMEOUT = length("1s", "60s")
"""In the full length the receivers hang for longer than a drain may take, and are cut off."""
FOR_EVER_S = 3600.0


def hanging(path: str, event_id: str, nth: int) -> Answer:
    """One request in sixty is never answered; the next one for the same delivery is."""
    if nth == 1 and crc32(f"hangs {event_id}".encode()) % 60 == 0:
        return Answer(504, after_s=FOR_EVER_S)
    return human(path, event_id, nth)


async def stop_all(workers: Crew) -> float:
    """At once; how long the last one took. Each must exit with 0."""
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    for member in workers.ready:
        member.process.send(signal.SIGTERM)
    statuses = await asyncio.gather(
        *(member.process.ended(DRAINED_WITHIN_S + SLACK_S) for member in workers.ready)
    )
    assert statuses == [0] * len(statuses)
    return loop.time() - asked_at


async def test_workers_stopped_at_once_under_load_drain_in_time_and_leave_nothing_leased(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """What hangs when the drain is over is given back, and sent anew by the next; what was answered is not."""
    async with merchant(hanging) as shop, world(db_url, key, shop, figures) as here:
        env = environment(here, DURO_ATTEMPT_TIMEOUT=ATTEMPT_TIMEOUT)
        async with crew(here, 2, env) as workers:
            producing = here.produce(DELIVERIES)
            await shop.until(lambda: len(shop.requests) >= DELIVERIES / 2, "half of the deliveries")
            took = await stop_all(workers)
            assert await here.leased() == 0
            assert await here.workers() == set()
            assert not any("Traceback" in member.process.stderr for member in workers.ready)
        figures.count("stops", 2)
        figures.notes.append(f"drained in {took:.1f} s")
        async with crew(here, 2, env) as workers:
            await producing
            await here.check_deliveries(workers.workers)


@pytest.mark.parametrize(
    "outage",
    [
        "down",
        pytest.param(
            "silent", marks=pytest.mark.skipif(not FULL, reason="half a minute long; see make soak")
        ),
    ],
)
async def test_a_worker_stopped_while_the_database_is_away_ends_in_time(
    db_url: str, key: bytes, figures: Figures, outage: str
) -> None:
    """What it could not settle is taken over by the next, and may be repeated."""
    async with merchant() as shop, world(db_url, key, shop, figures) as here, proxying(here.url) as way:
        async with crew(here, 1, environment(here, way.url(here.url))) as workers:
            producing = here.produce(DELIVERIES)
            await shop.until(lambda: len(shop.requests) >= DELIVERIES / 2, "half of the deliveries")
            _begin(outage, way)
            figures.in_flight += await here.leased()
            took = await stop_all(workers)
        figures.count("stops")
        figures.notes.append(f"ended in {took:.1f} s")
        way.restore()
        async with crew(here, 2) as workers:
            await producing
            await here.check_deliveries(workers.workers)


def _begin(outage: str, way: TcpProxy) -> None:
    if outage == "down":
        way.shut_down()
    else:
        way.stop_forwarding()
