"""What load balancers, orchestrators and Prometheus are told, over real HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from schema.errors import Unavailable
from schema.polling import through_outages
from service.settings import Settings
from service.worker import health_server
from service.worker.composition import Worker, worker
from service.worker.health_server import HealthServer
from service.worker.listen_socket import listener
from service.worker.telemetry import database_facts
from service.worker.telemetry.exposition import Telemetry
from tests.support.lifecycle_stress import stress_lifecycle
from tests.support.servers.tcp_proxy import TcpProxy, proxying


class Site:
    """A worker's HTTP side as a client finds it."""

    def __init__(self, url: str, stopping: asyncio.Event) -> None:
        self.url = url
        self.stopping = stopping

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far_worker(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Worker]:
    """Its parts do not run; it is registered, and reaches the database through the proxy."""
    async with worker(Settings(), proxy.url(db_url), key) as far:
        await far.presence.register()
        yield far


async def look(far_worker: Worker) -> None:
    """What presence does every second, until the database answers."""
    await through_outages(asyncio.Event(), "presence", far_worker.presence.check)


@pytest.fixture
async def site(far_worker: Worker) -> AsyncIterator[Site]:
    stopping, stop = asyncio.Event(), asyncio.Event()
    server = HealthServer(far_worker, Telemetry(far_worker), stopping)
    url = await server.bind("127.0.0.1", 0)
    running = asyncio.create_task(server.run(stop))
    yield Site(url, stopping)
    stop.set()
    await running


async def test_a_worker_with_a_database_is_alive_and_ready(site: Site) -> None:
    assert await site.get("/healthz") == (200, '{"status": "ok"}')
    assert await site.get("/readyz") == (200, '{"status": "ready"}')


async def test_without_the_database_it_is_alive_and_not_ready(
    site: Site, proxy: TcpProxy, far_worker: Worker
) -> None:
    proxy.shut_down()
    assert (await site.get("/healthz"))[0] == 200
    status, why = await site.get("/readyz")
    assert (status, json.loads(why)["status"]) == (503, "not ready")
    assert json.loads(why)["reasons"] == ["database unavailable", "not registered as a worker"]
    proxy.restore()
    await look(far_worker)
    assert (await site.get("/readyz"))[0] == 200


async def test_metrics_without_the_database_are_those_of_the_process(site: Site, proxy: TcpProxy) -> None:
    """So that a scrape shows what goes wrong while it does: 200, and no fact of the database's."""
    proxy.shut_down()
    status, text = await site.get("/metrics")
    assert status == 200
    assert 'duro_database_up{schema="core"} 0.0' in text
    assert 'duro_attempts_total{mode="live",outcome="ok"} 0.0' in text
    assert "duro_consumer_lag_events{" not in text
    proxy.restore()
    status, text = await site.get("/metrics")
    assert (status, 'duro_database_up{schema="core"} 1.0' in text) == (200, True)
    assert "duro_consumer_lag_events{" in text


async def test_a_silent_database_does_not_keep_anybody_waiting(
    site: Site, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_server, "_ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(database_facts, "ANSWER_WITHIN_S", 0.2)
    assert (await site.get("/readyz"))[0] == 200
    proxy.stop_forwarding()
    for path, status in (("/readyz", 503), ("/metrics", 200)):
        async with asyncio.timeout(3):
            assert (await site.get(path))[0] == status
    proxy.restore()


async def test_sessions_that_the_server_has_ended_make_no_error(
    site: Site, far_worker: Worker, superuser: asyncpg.Connection
) -> None:
    """The first answer may say that the database is not there; none may be 500."""
    assert (await site.get("/readyz"))[0] == 200
    for _ in range(5):
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename LIKE 'duro\\_%' AND usename <> 'duro_owner' AND datname = current_database()"
        )
        assert (await site.get("/readyz"))[0] in {200, 503}
        assert (await site.get("/metrics"))[0] == 200
        await look(far_worker)
        assert (await site.get("/readyz"))[0] == 200


async def test_from_the_first_signal_to_stop_it_is_not_ready(site: Site) -> None:
    """So that a load balancer takes it out before it is gone."""
    site.stopping.set()
    assert await site.get("/readyz") == (503, '{"status": "not ready", "reasons": ["stopping"]}')
    assert (await site.get("/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_one_sentence(far_worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = HealthServer(far_worker, Telemetry(far_worker), asyncio.Event())
        with pytest.raises(Unavailable) as refused:
            await server.bind("127.0.0.1", port)
    assert str(refused.value) == (
        f"Port {port} on 127.0.0.1 is in use. Stop the program that uses it, or choose another with --port (0 for any free port)."
    )


async def test_an_address_that_is_not_ours_is_one_sentence(far_worker: Worker) -> None:
    server = HealthServer(far_worker, Telemetry(far_worker), asyncio.Event())
    with pytest.raises(Unavailable, match=r"^Port 0 on 192\.0\.2\.1 cannot be used \(.*\)\. Choose another"):
        await server.bind("192.0.2.1", 0)


async def test_a_worker_that_is_not_registered_is_not_ready(site: Site, far_worker: Worker) -> None:
    """Others cannot see that it lives, and would take over whatever it took."""
    far_worker.presence.close()
    assert await site.get("/readyz") == (
        503,
        '{"status": "not ready", "reasons": ["not registered as a worker"]}',
    )


async def test_metrics_are_prometheus_text_in_its_own_content_type(site: Site) -> None:
    async with aiohttp.ClientSession() as session, session.get(site.url + "/metrics") as response:
        assert response.headers["Content-Type"] == CONTENT_TYPE_LATEST
        assert list(text_string_to_metric_families(await response.text()))


async def test_it_serves_on_a_socket_that_somebody_else_has_bound(far_worker: Worker) -> None:
    stop = asyncio.Event()
    sock = listener("127.0.0.1", 0)
    server = HealthServer(far_worker, Telemetry(far_worker), asyncio.Event())
    await server.listen_on(sock)
    running = asyncio.create_task(server.run(stop))
    site = Site(f"http://127.0.0.1:{sock.getsockname()[1]}", asyncio.Event())
    assert (await site.get("/readyz"))[0] == 200
    stop.set()
    await running


async def test_a_server_that_listens_nowhere_keeps_the_contract_too(far_worker: Worker) -> None:
    await stress_lifecycle(HealthServer(far_worker, Telemetry(far_worker), asyncio.Event()), turns=3)


async def test_nothing_else_is_served(site: Site) -> None:
    assert (await site.get("/"))[0] == 404
    assert (await site.get("/metrics/../readyz?x=1"))[0] == 200


async def test_it_keeps_the_lifecycle_s_contract(far_worker: Worker) -> None:
    server = HealthServer(far_worker, Telemetry(far_worker), asyncio.Event())
    await server.bind("127.0.0.1", 0)
    await stress_lifecycle(server)
