"""What load balancers, orchestrators and Prometheus are told, over real HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schema.errors import Unavailable
from service import http_server
from service.http_server import HttpServer
from service.runtime import Worker, worker
from service.settings import Settings
from tests.support.lifecycle import stress_lifecycle
from tests.support.tcp_proxy import TcpProxy, proxying


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
    """Its parts do not run; it reaches the database through the proxy."""
    async with worker(Settings(), proxy.url(db_url), key) as far:
        yield far


@pytest.fixture
async def site(far_worker: Worker) -> AsyncIterator[Site]:
    stopping, stop = asyncio.Event(), asyncio.Event()
    server = HttpServer(far_worker, "127.0.0.1", 0, stopping)
    url = await server.bind()
    running = asyncio.create_task(server.run(stop))
    yield Site(url, stopping)
    stop.set()
    await running


async def test_a_worker_with_a_database_is_alive_and_ready(site: Site) -> None:
    assert await site.get("/healthz") == (200, '{"status": "ok"}')
    assert await site.get("/readyz") == (200, '{"status": "ready"}')


async def test_without_the_database_it_is_alive_and_not_ready(site: Site, proxy: TcpProxy) -> None:
    proxy.go_down()
    assert (await site.get("/healthz"))[0] == 200
    assert await site.get("/readyz") == (503, '{"status": "database unavailable"}')
    assert await site.get("/metrics") == (503, "database unavailable\n")
    proxy.come_back()
    assert (await site.get("/readyz"))[0] == 200
    assert (await site.get("/metrics"))[0] == 200


async def test_a_silent_database_does_not_keep_anybody_waiting(
    site: Site, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_ANSWER_WITHIN_S", 0.2)
    assert (await site.get("/readyz"))[0] == 200
    proxy.fall_silent()
    for path in ("/readyz", "/metrics"):
        async with asyncio.timeout(3):
            assert (await site.get(path))[0] == 503
    proxy.come_back()


async def test_sessions_that_the_server_has_ended_make_no_error(
    site: Site, superuser: asyncpg.Connection
) -> None:
    """The first answer may say that the database is not there; none may be 500."""
    assert (await site.get("/readyz"))[0] == 200
    for _ in range(5):
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename LIKE 'duro\\_%' AND usename <> 'duro_owner' AND datname = current_database()"
        )
        assert (await site.get("/readyz"))[0] in {200, 503}
        assert (await site.get("/metrics"))[0] in {200, 503}
        assert (await site.get("/readyz"))[0] == 200


async def test_from_the_first_signal_to_stop_it_is_not_ready(site: Site) -> None:
    """So that a load balancer takes it out before it is gone."""
    site.stopping.set()
    assert await site.get("/readyz") == (503, '{"status": "stopping"}')
    assert (await site.get("/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_one_sentence(far_worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = HttpServer(far_worker, "127.0.0.1", port, asyncio.Event())
        with pytest.raises(Unavailable) as refused:
            await server.bind()
    assert str(refused.value) == (
        f"Port {port} on 127.0.0.1 is taken: end what uses it, or choose another with --port (0 takes a free one)."
    )


async def test_an_address_that_is_not_ours_is_one_sentence(far_worker: Worker) -> None:
    server = HttpServer(far_worker, "192.0.2.1", 0, asyncio.Event())
    with pytest.raises(Unavailable, match=r"^Port 0 on 192\.0\.2\.1 cannot be used \(.*\): choose another"):
        await server.bind()


async def test_metrics_are_prometheus_text_without_anybody_s_name(site: Site, tenant: UUID) -> None:
    _, text = await site.get("/metrics")
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 10
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"mode", "consumer"}
    assert all(family.name.startswith("duro_") and family.documentation for family in families)
    assert str(tenant) not in text


async def test_nothing_else_is_served(site: Site) -> None:
    assert (await site.get("/"))[0] == 404
    assert (await site.get("/metrics/../readyz?x=1"))[0] == 200


async def test_it_keeps_the_lifecycle_s_contract(far_worker: Worker) -> None:
    server = HttpServer(far_worker, "127.0.0.1", 0, asyncio.Event())
    await server.bind()
    await stress_lifecycle(server)
