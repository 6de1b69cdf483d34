"""Two hosts share one database. The cable of one is pulled in mid-run, and plugged in again later."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from socket import create_server, socket

import pytest

from tests.faults.crew import Member, crew, environment, taken_over
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import merchant
from tests.faults.namespaces import MIDDLE, NETWORK, Host, Network, network
from tests.faults.own_server import OwnCluster, own_cluster
from tests.faults.registered import has_new_id, id_of
from tests.faults.world import world
from tests.support.servers.duro_process import eventually

DELIVERIES = length(1_000, 30_000)
PARTITIONS = length(1, 3)


@dataclass(frozen=True)
class Site:
    """In the middle: the database, and a place for the merchant to listen."""

    network: Network
    cluster: OwnCluster
    listens: socket


@pytest.fixture
def site() -> Iterator[Site]:
    with network(2) as made, own_cluster() as cluster, ExitStack() as stack:
        cluster.admit(NETWORK)
        made.in_the_middle(lambda: stack.enter_context(cluster.running("listen_addresses=*")))
        yield Site(made, cluster, made.in_the_middle(lambda: create_server((MIDDLE, 0))))


async def test_a_host_that_is_cut_off_is_taken_over_and_the_other_goes_on(
    site: Site, figures: Figures
) -> None:
    """What was in flight there is repeated at worst. Plugged in again it works on, under a new name in the register."""
    url, key = site.cluster.socket_url(), site.cluster.key
    async with (
        merchant(listens=site.listens) as shop,
        world(url, key, shop, figures) as here,
        crew(here, 0) as workers,
    ):
        env = {**environment(here, site.cluster.url_at(MIDDLE)), "DURO_EGRESS_ALLOW": NETWORK}
        at_work: dict[Host, Member] = {
            host: await workers.hire(env, prefix=host.prefix) for host in site.network.hosts
        }
        for _ in range(PARTITIONS):
            producing = here.produce(DELIVERIES // PARTITIONS)
            moment = len(shop.requests) + DELIVERIES / PARTITIONS * here.chance.uniform(0.2, 0.6)
            await shop.until(lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries")
            host, member = here.chance.choice(list(at_work.items()))
            host.pull_the_plug()
            cut_at = asyncio.get_running_loop().time()
            figures.count("partitions")
            figures.in_flight += await here.leased(member.worker)
            await taken_over(here, member.worker, cut_at)
            await producing
            await here.arrived()
            host.plug_in()
            await eventually(partial(has_new_id, here, member), "it has registered anew")
            member.worker = await id_of(here, member) or 0
        await here.produce(DELIVERIES // 10)
        await here.check_deliveries(workers.workers)
