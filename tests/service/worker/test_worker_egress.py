"""A worker's settings for the way out reach its sender."""

from delivery.egress.guard import parse_cidrs
from delivery.http.attempt_contract import Outcome
from delivery.http.proxy_tunnel import EgressProxy
from service.settings import Settings
from service.worker.composition import worker
from tests.delivery.http.raw_receiver import receiving, to
from tests.delivery.http.test_proxy_tunnel import connecting

LOOPBACK = parse_cidrs("127.0.0.0/8")


async def test_a_worker_sends_through_the_egress_proxy_of_its_settings(db_url: str, key: bytes) -> None:
    heard: list[bytes] = []
    async with receiving() as receiver, receiving(connecting(heard)) as proxy:
        settings = Settings(egress_allow=LOOPBACK, egress_proxy=EgressProxy("localhost", proxy.port))
        async with worker(settings, db_url, key) as this:
            result = await this.sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, len(receiver.requests)) == (Outcome.OK, 1)
    assert [head.split()[1] for head in heard] == [b"127.0.0.1:%d" % receiver.port]


async def test_without_a_proxy_only_allowed_targets_are_dialled(db_url: str, key: bytes) -> None:
    async with receiving() as receiver:
        results = []
        for allow in (LOOPBACK, ()):
            async with worker(Settings(egress_allow=allow), db_url, key) as this:
                results.append(await this.sender.send(to(f"http://127.0.0.1:{receiver.port}/")))
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.BLOCKED]
    assert len(receiver.requests) == 1
