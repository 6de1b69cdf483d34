"""A page of a tenant's events costs what it returns, at any depth, beside any other tenants, and for any type."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio

from schema.connections.database import Connection, Database
from schema.event_log import positions
from schema.modes import Mode
from schema.queries import load
from tests.schema.test_query_plans import (
    PARTITIONS,
    TENANT,
    assert_frugal,
    assert_sound_while_empty,
)
from tests.support.plans import Plan, explain
from tests.support.read_models import history_database
from tests.support.servers.databases import Cluster

SQL = load("positions")
BYTES = positions.READ_BYTES


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[True, False], ids=["analyzed", "not analyzed"]
)
async def past(request: pytest.FixtureRequest, cluster: Cluster, with_history: str) -> AsyncIterator[str]:
    """The name of a database with a history."""
    async with history_database.copied(cluster, with_history, analyze=request.param) as name:
        yield name


@pytest.fixture
async def data(cluster: Cluster, past: str) -> AsyncIterator[Connection]:
    async with (
        Database.open(cluster.url(past), cluster.key) as database,
        database.data(Mode.TEST).acquire() as connection,
    ):
        yield connection


async def page(data: Connection, number: int, size: int) -> Plan:
    """The plan of the nth page of a tenant's events, counted from 1."""
    pos = 0
    if number > 1:
        pos = await data.fetchval(
            "SELECT pos FROM event_log WHERE tenant_id = $1 ORDER BY pos OFFSET $2 LIMIT 1",
            TENANT,
            (number - 1) * size - 1,
        )
    plan = await explain(data, SQL["read_tenant"], TENANT, pos, [], size, BYTES, positions.SCAN_LIMIT)
    assert plan.root["Actual Rows"] == size
    return plan


async def test_page_500_costs_what_page_1_costs(data: Connection) -> None:
    first, deep = await page(data, 1, 5), await page(data, 500, 5)
    for plan in (first, deep):
        assert_frugal(plan, rows=2 * 5 + 3 * PARTITIONS, pages=6 * 5 + 6 * PARTITIONS)
    assert deep.rows_read <= first.rows_read + PARTITIONS
    assert deep.buffers <= first.buffers + 2 * PARTITIONS, "a step more into an index or two"


async def test_a_type_without_events_costs_at_most_the_scan_limit(data: Connection) -> None:
    """It searches this tenant's positions only."""
    scan_limit = 500
    plan = await explain(data, SQL["read_tenant"], TENANT, 0, ["webhook_test"], 100, BYTES, scan_limit)
    assert_frugal(plan, rows=2 * scan_limit + 3 * PARTITIONS, pages=6 * scan_limit + 6 * PARTITIONS)


@pytest.mark.parametrize("types", [[], ["webhook_test"]])
async def test_a_tenant_without_events_costs_one_lookup_per_partition(
    data: Connection, types: list[str]
) -> None:
    plan = await explain(data, SQL["read_tenant"], UUID(int=0xABC), 0, types, 100, BYTES, 1000)
    assert_frugal(plan, rows=3 * PARTITIONS, pages=5 * PARTITIONS)


async def test_following_the_end_costs_the_positions_read(data: Connection) -> None:
    tenants = [UUID(int=number) for number in range(1000, 1500)] + [TENANT]
    plan = await explain(data, SQL["read_tenants"], history_database.LOGGED - 100, tenants, 1000, BYTES)
    assert plan.root["Actual Rows"] == 100 // history_database.TENANTS
    assert_frugal(plan, rows=100 + 10 + 3 * PARTITIONS, pages=100 + 60 + 6 * PARTITIONS)


async def test_the_logs_end_costs_two_lookups(data: Connection) -> None:
    assert_frugal(await explain(data, SQL["log_end"]), rows=2, pages=6)


async def test_plans_made_for_empty_partitions_stay_good_when_they_fill(data: Connection) -> None:
    one = await explain(data, SQL["read_tenant"], TENANT, 0, ["webhook_test"], 100, BYTES, 1000)
    await assert_sound_while_empty(data, one)
    walked = {
        node["Index Name"]
        for node in one.nodes()
        if "Index Name" in node and node["Relation Name"].startswith("event_log")
    }
    assert all("tenant_id_pos" in index for index in walked), walked
    several = await explain(data, SQL["read_tenants"], 0, [TENANT], 1000, BYTES)
    await assert_sound_while_empty(data, several)
