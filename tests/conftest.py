"""Fixtures for every test. A test that uses the database gets its own, migrated and empty."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import UUID

import asyncpg
import pytest
from hypothesis import settings

from schema.connections.database import Database
from schema.core import tenants
from tests.faults.figures import pytest_terminal_summary  # noqa: F401  a hook, by its name
from tests.support.servers.connections import SUPERUSER, Connect, connections
from tests.support.servers.databases import (
    OWNER,
    TEMPLATE,
    Cluster,
    make_template,
    run_apart,
    running_cluster,
)

# A background shell starts pytest with SIGINT ignored. The processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: a busy machine is not a failure. CI uses "moderate", `make soak` uses "long".
settings.register_profile("quick", deadline=None, max_examples=25, print_blob=True)
settings.register_profile("moderate", settings.get_profile("quick"), max_examples=100)
settings.register_profile("long", settings.get_profile("quick"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster(durable=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    run_apart(make_template(cluster))
    return TEMPLATE


@pytest.fixture
async def db_name(cluster: Cluster, template: str) -> AsyncIterator[str]:
    async with cluster.fresh_database(template) as name:
        yield name


@pytest.fixture
def db_url(cluster: Cluster, db_name: str) -> str:
    """The owner's URL, as in DURO_DATABASE_URL."""
    return cluster.url(db_name)


@pytest.fixture
def key(cluster: Cluster) -> bytes:
    return cluster.key


@pytest.fixture
async def database(db_url: str, key: bytes) -> AsyncIterator[Database]:
    async with Database.open(db_url, key) as database:
        yield database
    await asyncio.sleep(0)  # the loop closes what has been terminated


@pytest.fixture
async def connect(cluster: Cluster, db_name: str) -> AsyncIterator[Connect]:
    async with connections(cluster, db_name) as connect:
        yield connect


@pytest.fixture
async def owner(connect: Connect) -> asyncpg.Connection:
    return await connect(OWNER)


@pytest.fixture
async def superuser(connect: Connect) -> asyncpg.Connection:
    return await connect(SUPERUSER)


@pytest.fixture
def new_tenant(database: Database) -> Callable[[], Awaitable[UUID]]:
    async def create() -> UUID:
        tenant_id, _api_keys = await tenants.create(database.core, "Lagos Gym")
        return tenant_id

    return create


@pytest.fixture
async def tenant(new_tenant: Callable[[], Awaitable[UUID]]) -> UUID:
    return await new_tenant()
