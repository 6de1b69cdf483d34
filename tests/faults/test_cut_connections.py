"""The network between workers and the database: connections reset at any moment, answers lost, and silence.

Each worker has its own way to the database, a proxy.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.faults.crew import Crew, Member, crew, environment, taken_over
from tests.faults.figures import Figures
from tests.faults.length import FULL, length
from tests.faults.merchant import merchant
from tests.faults.registered import has_new_id, id_of
from tests.faults.world import World, world
from tests.support.servers.duro_process import eventually
from tests.support.servers.tcp_proxy import Cut, TcpProxy, proxying

DELIVERIES = length(1_500, 40_000)
CUTS = length(12, 120)
LATENCY_S = 0.003
# What a connection is sending when it is cut. A statement's text is sent when a connection prepares it, which a new one
# does again after a cut; a COPY, as large batches go, and a commit are sent in so many words each time.
FAN_OUT = (b"INSERT INTO webhook_deliveries", b'COPY "webhook_deliveries"')
CLAIM = b"FOR UPDATE SKIP LOCKED"
SETTLE = (b"INSERT INTO webhook_attempts", b'COPY "webhook_attempts"')
COMMIT = b"COMMIT"
# With the answer to a commit that hands out leases the knowledge of them is lost; the worker's audit finds them, in
# half a minute or a whole one. That is for the full length.
WHERE = [Cut.BEFORE, Cut.AFTER] if FULL else [Cut.BEFORE]
WORDS = [FAN_OUT, CLAIM, SETTLE, COMMIT, COMMIT]


@dataclass(frozen=True)
class FarMember:
    member: Member
    way: TcpProxy


@asynccontextmanager
async def far_members(here: World, workers: Crew, count: int) -> AsyncIterator[list[FarMember]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            way = await stack.enter_async_context(proxying(here.url))
            member = await workers.hire(environment(here, way.url(here.url)))
            found.append(FarMember(member, way))
        yield found


async def test_connections_cut_in_the_middle_of_anything_lose_and_repeat_nothing(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """A worker that is back soon keeps its leases, so whatever it had begun it ends."""
    async with (
        merchant() as shop,
        world(db_url, key, shop, figures) as here,
        crew(here, 0) as workers,
        far_members(here, workers, 2) as far,
    ):
        for one in far:
            one.way.latency_s = LATENCY_S
        producing = here.produce(DELIVERIES)
        for nth in range(CUTS):
            moment = DELIVERIES * (nth + here.chance.uniform(0.1, 0.9)) / CUTS
            await shop.until(lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries")
            way = here.chance.choice(far).way
            if FULL and here.chance.random() < 0.2:
                way.cut()
                figures.count("resets of all connections of a worker")
            else:
                way.cut_at(here.chance.choice(WORDS), here.chance.choice(WHERE))
        await producing
        for one in far:
            one.way.cut_at(b"", Cut.BEFORE)
            await one.way.was_cut.wait()
            figures.count("cuts", one.way.cuts)
        await here.check_deliveries({one.member.worker for one in far})


async def test_a_worker_cut_off_in_silence_is_taken_over_and_others_go_on(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """Nobody is told. It falls silent in the middle of its fan-out, with the cursor locked, and comes back later."""
    async with (
        merchant() as shop,
        world(db_url, key, shop, figures) as here,
        crew(here, 1) as workers,
        far_members(here, workers, 1) as (far,),
    ):
        await here.produce(DELIVERIES // 10)
        producing = here.produce(DELIVERIES)
        far.way.cut_at(FAN_OUT, Cut.SILENCE)
        async with asyncio.timeout(30):
            await far.way.was_cut.wait()
        silent_at = asyncio.get_running_loop().time()
        figures.count("silences")
        figures.in_flight += await here.leased(far.member.worker)
        await taken_over(here, far.member.worker, silent_at)
        await producing
        await here.arrived()
        far.way.restore()
        await eventually(lambda: has_new_id(here, far.member), "it has registered anew")
        await here.produce(100)
        living = {await id_of(here, member) for member in workers.ready}
        await here.check_deliveries({worker for worker in living if worker is not None})
