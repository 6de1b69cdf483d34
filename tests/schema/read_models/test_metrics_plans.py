"""A scrape reads a bounded number of rows, however many deliveries wait, whatever else is in the database."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from schema.connections.database import Connection, Database
from schema.modes import Mode
from schema.queries import load
from schema.read_models import metrics
from tests.support.plans import Plan, explain
from tests.support.read_models import history_database
from tests.support.servers.databases import Cluster

METRICS, CORE = load("metrics"), load("metrics_core")
PARTITIONS = 13
WAITING = 100_000
MOST_UNHEALTHY = 20_000

# Every tenth endpoint below has most of the waiting deliveries; all of them are failing, open or inactive.
_TROUBLE = f"""
INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at, retry_at, lane)
SELECT gen_random_uuid(), gen_random_uuid(), lpad(to_hex(n % 2000 * 10), 32, '0')::uuid, gen_random_uuid(), 'invoice_created',
       now(), 'pending', now() - make_interval(secs => n % 100), now(), 1
  FROM generate_series(1, {WAITING}) n;
INSERT INTO core.webhook_endpoints (id, tenant_id, mode, url, enabled, disabled_reason)
SELECT lpad(to_hex(n), 32, '0')::uuid, gen_random_uuid(), 'test', 'https://merchant.example', n % 2 = 0,
       CASE WHEN n % 2 <> 0 THEN 'asked for' END
  FROM generate_series({history_database.ENDPOINTS} + 1, {MOST_UNHEALTHY}) n;
INSERT INTO endpoint_health (endpoint_id, tenant_id, failing_since, open_until)
SELECT id, tenant_id, now(), now() FROM core.webhook_endpoints ON CONFLICT DO NOTHING;
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_trouble(cluster: Cluster, with_history: str) -> AsyncIterator[str]:
    """The name of a database with a history and much that waits, to be copied."""
    async with history_database.copied(cluster, with_history, also=_TROUBLE) as name:
        yield name


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[True, False], ids=["analyzed", "not analyzed"]
)
async def crowded(request: pytest.FixtureRequest, cluster: Cluster, with_trouble: str) -> AsyncIterator[str]:
    async with history_database.copied(cluster, with_trouble, analyze=request.param) as name:
        yield name


@pytest.fixture
async def database(cluster: Cluster, crowded: str) -> AsyncIterator[Database]:
    async with Database.open(cluster.url(crowded), cluster.key) as database:
        yield database


@pytest.fixture
async def data(database: Database) -> AsyncIterator[Connection]:
    async with database.data(Mode.TEST).acquire() as connection:
        yield connection


def assert_frugal(plan: Plan, *, rows: int, pages: int) -> None:
    assert plan.full_scans() == set()
    assert plan.rows_read <= rows
    assert plan.buffers <= pages


@pytest.mark.parametrize("limit", [100, 10_000])
async def test_counting_waiting_deliveries_stops_at_the_limit(data: Connection, limit: int) -> None:
    plan = await explain(data, METRICS["waiting"], 1, metrics.OVERDUE_AFTER, limit)
    assert_frugal(plan, rows=limit + PARTITIONS, pages=2 * limit + 4 * PARTITIONS)


@pytest.mark.parametrize("visit", [10, 500])
async def test_finding_the_oldest_costs_one_step_per_endpoint(data: Connection, visit: int) -> None:
    plan = await explain(data, METRICS["endpoints_due"], 1, visit)
    assert_frugal(plan, rows=(PARTITIONS + 4) * (visit + 1), pages=(3 * PARTITIONS + 20) * (visit + 1))


async def test_unhealthy_endpoints_are_counted_up_to_the_limit(data: Connection) -> None:
    limit = 100
    plan = await explain(data, METRICS["unhealthy_endpoints"], limit)
    assert_frugal(plan, rows=4 * limit, pages=12 * limit + 20)
    assert {"endpoint_health_failing", "endpoint_health_open"} <= plan.indexes
    assert_frugal(await explain(data, METRICS["retries_paused"]), rows=1, pages=3)


async def test_inactive_endpoints_are_counted_up_to_the_limit(database: Database) -> None:
    limit = 100
    async with database.core.acquire() as connection:
        plan = await explain(connection, CORE["inactive_endpoints"], limit)
        assert_frugal(plan, rows=limit, pages=2 * limit + 20)
        assert plan.indexes == {"webhook_endpoints_out_of_service"}
        assert_frugal(await explain(connection, CORE["workers"]), rows=1, pages=3)
