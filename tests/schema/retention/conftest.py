"""What the tests of retention share: databases with old months, and a month that may be deleted."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from schema.connections.database import Database, Pool
from schema.modes import Mode
from tests.support.retention_history import OLD, finished, past
from tests.support.servers.databases import Cluster


@pytest.fixture
async def db_name(cluster: Cluster, with_old_months: str) -> AsyncIterator[str]:
    async with cluster.fresh_database(with_old_months) as name:
        yield name


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
async def old(data: Pool, tenant: UUID) -> list[UUID]:
    """Ids of the events of a month that may be deleted."""
    events = await past(data, tenant, OLD)
    await finished(data)
    return events
