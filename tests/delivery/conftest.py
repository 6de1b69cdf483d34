"""A merchant's server, the database as it is seen through a proxy that loses connections, and an impatient audit."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from schema.connections.database import Database
from tests.support.engine import Engine, add_endpoint, engine
from tests.support.servers.receiver import OK, Answer, Receiver, receiving
from tests.support.servers.tcp_proxy import TcpProxy, proxying
from tests.support.settler_results import without_slots


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def silence(receiver: Receiver) -> asyncio.Event:
    """Until it is set, requests to `/slow` get no response."""
    held = asyncio.Event()
    receiver.answer = lambda request: Answer(held_by=held) if request.path == "/slow" else OK
    return held


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far_database(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Database]:
    """The database through the proxy."""
    async with Database.open(proxy.url(db_url), key) as database:
        yield database


# For a settler without a dispatcher


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> UUID:
    return await add_endpoint(database, tenant, "https://example.com/")


@pytest.fixture
async def ours(database: Database) -> AsyncIterator[Engine]:
    async with engine(database) as ours:
        yield without_slots(ours)


@pytest.fixture
async def far(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Engine]:
    """An engine that reaches the database through the proxy."""
    async with (
        Database.open(proxy.url(db_url), key) as database,
        engine(database, last_tries_s=0.2) as far,
    ):
        yield without_slots(far)
