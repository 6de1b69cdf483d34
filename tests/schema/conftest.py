"""What files have in common that keep to one database (each of their tests has rows of its own, or takes them back), and what
the tests of plans look at.

The former's tests run on the module's loop: `pytestmark = pytest.mark.asyncio(loop_scope="module")`.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from asyncpg.connection import LoggedQuery

from schema.connections.database import Database, Pool
from tests.support.billing.wallets import new_phone
from tests.support.read_models import history_database
from tests.support.retention_history import OLD
from tests.support.servers.databases import Cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The name of a database for a whole file."""
    async with cluster.fresh_database(template) as name:
        yield name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_database(cluster: Cluster, shared: str) -> AsyncIterator[Database]:
    async with Database.open(cluster.url(shared), cluster.key) as database:
        yield database
    await asyncio.sleep(0)  # the loop closes what has been terminated


@pytest_asyncio.fixture(loop_scope="module")
async def heard(cluster: Cluster, shared: str) -> AsyncIterator[tuple[Pool, list[LoggedQuery]]]:
    """A pool of core's with one connection, and what the server hears from it."""
    heard: list[LoggedQuery] = []
    async with Database.open(cluster.url(shared), cluster.key, max_per_role=1) as database:
        async with database.core.acquire() as connection:
            connection.add_query_logger(heard.append)
        yield database.core, heard
    await asyncio.sleep(0)


@pytest.fixture
def core(shared_database: Database) -> Pool:
    return shared_database.core


@pytest.fixture
def phone() -> str:
    """Nobody else's."""
    return new_phone()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def with_history(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The name of a database with a history, to be copied: a copy takes a tenth of a second, writing it some seconds."""
    async with history_database.copied(cluster, template, also=history_database.PAST) as name:
        yield name


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def with_old_months(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The name of a database with test mode's partitions since OLD, to be copied: making them takes five times as long."""
    async with cluster.fresh_database(template) as name:
        owner = await asyncpg.connect(cluster.url(name))
        await owner.execute("SELECT sandbox.ensure_past_partitions($1)", OLD.start)
        await owner.close()
        yield name
