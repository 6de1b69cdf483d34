"""Two hosts share a database. One is disconnected during the run and reconnected later."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from socket import create_server, socket

import pytest

from tests.faults.fault_receiver import fault_receiver
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.namespaces import MIDDLE, NETWORK, Host, Network, network
from tests.faults.own_server import OwnCluster, own_cluster
from tests.faults.registered import has_new_id, id_of
from tests.faults.scenario import scenario
from tests.faults.worker_group import WorkerProcess, environment, taken_over, worker_group
from tests.support.servers.duro_process import eventually

DELIVERIES = length(1_000, 30_000)
PARTITIONS = length(1, 3)


@dataclass(frozen=True)
class PartitionSetup:
    """The database and the receiver's socket, both in the middle."""

    network: Network
    cluster: OwnCluster
    listens: socket


@pytest.fixture
def setup() -> Iterator[PartitionSetup]:
    with network(2) as made, own_cluster() as cluster, ExitStack() as stack:
        cluster.admit(NETWORK)
        made.run_in_middle(lambda: stack.enter_context(cluster.running("listen_addresses=*")))
        yield PartitionSetup(made, cluster, made.run_in_middle(lambda: create_server((MIDDLE, 0))))


async def test_a_disconnected_host_is_taken_over(setup: PartitionSetup, figures: Figures) -> None:
    """Only its deliveries in flight may be repeated.

    After the reconnection it continues with a new worker id.
    """
    url, key = setup.cluster.socket_url(), setup.cluster.key
    async with (
        fault_receiver(listens=setup.listens) as receiver,
        scenario(url, key, receiver, figures) as run,
        worker_group(run, 0) as workers,
    ):
        env = {**environment(run, setup.cluster.url_at(MIDDLE)), "DURO_EGRESS_ALLOW": NETWORK}
        running: dict[Host, WorkerProcess] = {
            host: await workers.start_worker(env, prefix=host.prefix) for host in setup.network.hosts
        }
        for _ in range(PARTITIONS):
            producing = run.produce(DELIVERIES // PARTITIONS)
            moment = len(receiver.requests) + DELIVERIES / PARTITIONS * run.chance.uniform(0.2, 0.6)
            await receiver.until(
                lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
            )
            host, member = run.chance.choice(list(running.items()))
            host.disconnect()
            cut_at = asyncio.get_running_loop().time()
            figures.count("partitions")
            figures.in_flight += await run.leased(member.worker)
            await taken_over(run, member.worker, cut_at)
            await producing
            await run.arrived()
            host.reconnect()
            await eventually(partial(has_new_id, run, member), "it has registered with a new id")
            member.worker = await id_of(run, member) or 0
        await run.produce(DELIVERIES // 10)
        await run.check_deliveries(workers.workers)
