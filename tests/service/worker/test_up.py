"""`duro up` as a process: what it prints, how it fails, how it ends. Here the database is one of the test cluster's."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import pytest

from schema.connections.database import Database
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.servers.databases import Cluster
from tests.support.servers.duro_process import (
    SIGINT_IGNORED,
    DuroProcess,
    duro,
    eventually,
    processes_in_group,
    settings,
)
from tests.support.servers.receiver import Answer, receiving

Busy = tuple[DuroProcess, str, asyncio.Event]
"""A `duro up` with one attempt under way, its URL, and the event that lets the attempt end."""


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


async def text_of(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def is_ready(url: str) -> bool:
    try:
        return await status_of(url + "/readyz") == 200
    except aiohttp.ClientError:
        return False


def free_ports(count: int) -> int:
    """The first of that many in a row."""
    while True:
        with ExitStack() as taken, suppress(OSError):
            first: int = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for number in range(1, count):
                taken.enter_context(socket.create_server(("127.0.0.1", first + number)))
            return first


async def start_time_of(url: str) -> str:
    """Of the process that answers, to a hundredth of a second."""
    metrics = await text_of(url + "/metrics")
    return metrics.partition("\nprocess_start_time_seconds ")[2].partition("\n")[0]


async def workers(database: Database) -> int:
    count: int = await database.core.fetchval("SELECT count(*) FROM workers")
    return count


async def test_up_prints_its_urls_and_runs_until_sigterm(database: Database, db_url: str, key: bytes) -> None:
    async with duro("up", "--port", "0", "--json", env=settings(db_url, key)) as up:
        said = await up.said()
        assert said.keys() == {"api", "database_url", "workers"}
        assert said["workers"] == [said["api"]]
        assert said["database_url"] == db_url
        assert await status_of(said["api"] + "/readyz") == 200
        assert await workers(database) == 1
        up.send(signal.SIGTERM)
        assert await up.ended() == 0
        assert up.stderr == ""
        assert await workers(database) == 0
        assert processes_in_group(up.pid) == []


async def test_ctrl_c_stops_it_even_if_sigint_was_ignored(db_url: str, key: bytes) -> None:
    async with duro("up", "--port", "0", "--json", env=settings(db_url, key), prefix=SIGINT_IGNORED) as up:
        await up.said()
        up.send(signal.SIGINT)
        assert await up.ended() == 0


async def test_to_people_it_shows_no_password(db_url: str, key: bytes) -> None:
    async with duro("up", "--port", "0", env=settings(db_url, key)) as up:
        assert up.process.stdout is not None
        shown = (await up.process.stdout.readline()).decode()
        up.send(signal.SIGINT)
        shown += (await up.process.stdout.read()).decode()
        assert await up.ended() == 0
        password = urlsplit(db_url).password
        assert password
        assert password not in shown + up.stderr
    assert shown.startswith("duro is up with 1 worker.\n")
    assert re.search(
        r"^  Worker 1  http://127\.0\.0\.1:\d+  \(/healthz, /readyz, /metrics\)$", shown, re.MULTILINE
    )
    assert "API" not in shown, "there is none yet"


async def test_it_migrates_a_database_that_is_empty(cluster: Cluster, key: bytes) -> None:
    async with (
        cluster.fresh_database("template1") as name,
        duro("up", "--port", "0", "--json", env=settings(cluster.url(name), key)) as up,
    ):
        await up.said()
        async with Database.open(cluster.url(name), key) as database:
            assert await workers(database) == 1
        up.send(signal.SIGTERM)
        assert await up.ended() == 0


async def fails(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    async with duro("up", *arguments, env=env) as up:
        status = await up.ended()
        lines = [line for line in up.stderr.splitlines() if line.startswith("duro: ")]
        assert "Traceback" not in up.stderr
    assert len(lines) == 1, up.stderr
    return status, lines[0]


async def test_a_port_in_use_is_one_sentence_and_leaves_nothing(
    database: Database, db_url: str, key: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, line = await fails("--port", str(port), env=settings(db_url, key))
    assert (status, line.partition(":")[2].split(" is ")[0]) == (1, f" Port {port} on 127.0.0.1")
    assert await workers(database) == 0


async def test_every_workers_port_is_taken_before_anything_starts(
    database: Database, db_url: str, key: bytes
) -> None:
    first = free_ports(2)
    with socket.create_server(("127.0.0.1", first + 1)):
        status, line = await fails("--port", str(first), "--workers", "2", env=settings(db_url, key))
    assert (status, f"Port {first + 1} on 127.0.0.1 is in use" in line) == (1, True)
    status, line = await fails("--port", "65535", "--workers", "3", env=settings(db_url, key))
    assert (status, line) == (2, "duro: With 3 workers the port can be at most 65533: choose a lower --port.")
    assert await workers(database) == 0


async def test_every_worker_keeps_its_own_port(db_url: str, key: bytes) -> None:
    """The one of a worker that died is served by the one that replaces it."""
    first = free_ports(3)
    arguments = ("--port", str(first), "--workers", "3", "--json")
    async with duro("up", *arguments, env=settings(db_url, key)) as up:
        said = await up.said()
        assert said["workers"] == [f"http://127.0.0.1:{first + number}" for number in range(3)]
        for url in said["workers"]:
            await eventually(lambda url=url: is_ready(url), f"{url} is ready")
        children = said["workers"][1:]
        started = [await start_time_of(url) for url in children]
        assert await start_time_of(said["api"]) not in started, "it is not the first one that answers for all"
        for child in processes_in_group(up.pid):
            if child != up.pid:
                os.kill(child, signal.SIGKILL)
        for url, before in zip(children, started, strict=True):
            await eventually(lambda url=url: is_ready(url), f"{url} is ready again")
            assert await start_time_of(url) != before
        metrics = await text_of(said["api"] + "/metrics")
        for number in (2, 3):
            assert f'duro_part_failures_total{{part="worker process {number}"}} 1.0' in metrics
        up.send(signal.SIGTERM)
        assert await up.ended() == 0


async def test_with_port_0_every_worker_takes_a_free_one(db_url: str, key: bytes) -> None:
    async with duro("up", "--port", "0", "--workers", "2", "--json", env=settings(db_url, key)) as up:
        said = await up.said()
        assert len(set(said["workers"])) == 2
        for url in said["workers"]:
            await eventually(lambda url=url: is_ready(url), f"{url} is ready")
        up.send(signal.SIGTERM)
        assert await up.ended() == 0
        assert up.stderr == ""


async def test_a_database_that_cannot_be_reached_is_one_line(db_url: str, key: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql://owner:hunter2@127.0.0.1:{port}/duro"
    status, line = await fails("--port", "0", env=settings(url, key))
    assert status == 1
    assert "cannot be reached" in line
    assert "hunter2" not in line


async def test_another_key_than_the_database_s_is_one_line(db_url: str) -> None:
    status, line = await fails("--port", "0", env=settings(db_url, bytes(32)))
    assert (status, "DURO_SECRET_KEY" in line) == (1, True)


async def test_an_unknown_setting_is_one_line_and_used_wrongly(db_url: str, key: bytes) -> None:
    status, line = await fails(env=settings(db_url, key, DURO_PROT="1"))
    assert (status, line) == (2, "duro: DURO_PROT is not a setting: did you mean DURO_PORT?")


@pytest.fixture
async def busy(database: Database, tenant: UUID, db_url: str, key: bytes) -> AsyncIterator[Busy]:
    held = asyncio.Event()
    async with receiving() as receiver:
        receiver.answer = lambda _request: Answer(held_by=held)
        await add_endpoint(database, tenant, receiver.url)
        async with duro("up", "--port", "0", "--json", env=settings(db_url, key)) as up:
            said = await up.said()
            await record(database.data(Mode.TEST), tenant)
            await receiver.requests.count(1)
            yield up, said["api"], held


async def test_while_it_drains_it_is_alive_and_not_ready(busy: Busy) -> None:
    up, api, held = busy
    up.send(signal.SIGTERM)

    async def is_not_ready() -> bool:
        return await status_of(api + "/readyz") == 503

    await eventually(is_not_ready, "it is not ready any more")
    assert await status_of(api + "/healthz") == 200
    held.set()
    assert await up.ended() == 0


async def test_a_second_signal_cuts_it_off(busy: Busy, database: Database) -> None:
    up, api, _held = busy
    up.send(signal.SIGINT)

    async def is_not_ready() -> bool:
        return await status_of(api + "/readyz") == 503

    await eventually(is_not_ready, "the first signal has come")
    up.send(signal.SIGINT)
    assert await up.ended() == 130
    leased = await database.data(Mode.TEST).fetchval(
        "SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL"
    )
    assert leased == 1, "as after a kill: others take over"
