"""`duro up` with only a data directory continues where it was after a kill."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.core import tenants
from schema.embedded import read_secret_key
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record_many
from tests.support.servers.directories import temporary_directory
from tests.support.servers.duro_process import DuroProcess, duro, eventually
from tests.support.servers.receiver import Receiver

pytestmark = pytest.mark.drill


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory / "data"


@asynccontextmanager
async def duro_up(data_dir: Path, workers: int = 1) -> AsyncIterator[tuple[DuroProcess, str]]:
    """Yields the process, and the database URL that it printed."""
    arguments = ("--port", "0", "--workers", str(workers), "--data-dir", str(data_dir), "--json")
    async with duro("up", *arguments, env={"DURO_EGRESS_ALLOW": "127.0.0.0/8"}) as up:
        yield up, (await up.said())["database_url"]


async def new_tenant_with_endpoint(url: str, data_dir: Path, receiver: Receiver) -> UUID:
    async with Database.open(url, read_secret_key(data_dir)) as database:
        tenant, _keys = await tenants.create(database.core, "Lagos Gym")
        await add_endpoint(database, tenant, receiver.url)
    return tenant


async def committed(url: str, tenant: UUID, count: int) -> set[str]:
    producer = await asyncpg.connect(url, server_settings={"search_path": Mode.TEST.schema})
    try:
        return {format_id(EVENT, event) for event in await record_many(producer, tenant, count)}
    finally:
        await producer.close()


async def both_at_work(url: str) -> bool:
    owner = await asyncpg.connect(url)
    try:
        count: int = await owner.fetchval("SELECT count(*) FROM core.workers")
    finally:
        await owner.close()
    return count == 2


async def all_of(receiver: Receiver, sent: set[str]) -> None:
    await receiver.requests.until(lambda _all: receiver.event_ids().keys() >= sent, within_s=30)
    assert receiver.event_ids().keys() == sent


async def test_a_killed_process_group_continues_after_a_restart(data_dir: Path, receiver: Receiver) -> None:
    async with duro_up(data_dir) as (up, url):
        tenant = await new_tenant_with_endpoint(url, data_dir, receiver)
        sent = await committed(url, tenant, 300)
        await receiver.requests.count(100)
        up.kill_group()
        assert await up.ended() == -signal.SIGKILL
    assert len(receiver.requests) < 300, "it was killed before the end"
    async with duro_up(data_dir) as (up, url):
        sent |= await committed(url, tenant, 20)
        await all_of(receiver, sent)
        up.send(signal.SIGTERM)
        assert await up.ended(25) == 0


async def test_a_killed_postgres_restarts_and_nothing_is_lost(data_dir: Path, receiver: Receiver) -> None:
    """Only the server is killed. `duro up` and its other worker keep running and may repeat deliveries."""
    async with duro_up(data_dir, workers=2) as (up, url):
        tenant = await new_tenant_with_endpoint(url, data_dir, receiver)
        await eventually(lambda: both_at_work(url), "both workers are registered")
        sent = await committed(url, tenant, 300)
        await receiver.requests.count(100)
        postmaster = int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        await all_of(receiver, sent)
        sent |= await committed(url, tenant, 20)
        await all_of(receiver, sent)
        up.send(signal.SIGTERM)
        assert await up.ended(25) == 0
