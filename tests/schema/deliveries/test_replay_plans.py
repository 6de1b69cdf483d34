"""A replay step costs the rows that it reads. A page of undelivered deliveries costs what it shows, beside any delivered ones.

As in test_query_plans.py: through a pool of Database, with statistics and without.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from schema.connections.database import Connection, Database
from schema.modes import Mode
from schema.queries import load
from tests.support.plans import Plan, explain
from tests.support.read_models import history_database
from tests.support.servers.databases import Cluster

REPLAYS, HISTORY, SWITCHES = load("replays"), load("delivery_history"), load("switches")
TENANT = UUID("00000000-0000-0000-0000-000000000003")
PARTITIONS = 13
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
STEP = 50
ONE_IN = 40
"""Of the deliveries; half of these failed, the others were skipped."""

_SOME_DID_NOT_ARRIVE = f"""
UPDATE webhook_deliveries d SET status = CASE l.pos / 10 % {2 * ONE_IN} WHEN 0 THEN 'failed' ELSE 'skipped' END
  FROM event_log l
 WHERE l.event_id = d.event_id AND l.pos / 10 % {ONE_IN} = 0 AND d.status = 'delivered'
"""


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[True, False], ids=["analyzed", "not analyzed"]
)
async def past(request: pytest.FixtureRequest, cluster: Cluster, with_history: str) -> AsyncIterator[str]:
    """The name of a database in which few deliveries failed."""
    async with history_database.copied(
        cluster, with_history, also=_SOME_DID_NOT_ARRIVE, analyze=request.param
    ) as name:
        yield name


@pytest.fixture
async def data(cluster: Cluster, past: str) -> AsyncIterator[Connection]:
    async with (
        Database.open(cluster.url(past), cluster.key) as database,
        database.data(Mode.TEST).acquire() as connection,
    ):
        yield connection


def assert_frugal(plan: Plan, *, rows: int, pages: int) -> None:
    assert plan.full_scans() == set()
    assert plan.rows_read <= rows
    assert plan.buffers <= pages


async def middle(data: Connection, table: str, condition: str = "true") -> asyncpg.Record:
    row = await data.fetchrow(
        f"SELECT created_at, id, count(*) OVER () AS all FROM {table} WHERE tenant_id = $1 AND {condition}"
        " ORDER BY created_at, id OFFSET 10",
        TENANT,
    )
    assert row
    return row


async def columns(data: Connection, table: str, count: int = STEP) -> tuple[Sequence[Any], Sequence[Any]]:
    rows = await data.fetch(
        f"SELECT id, created_at FROM {table} WHERE tenant_id = $1 ORDER BY created_at, id LIMIT $2",
        TENANT,
        count,
    )
    return [row["id"] for row in rows], [row["created_at"] for row in rows]


async def test_undelivered_deliveries_are_read_by_their_own_index(data: Connection) -> None:
    start = await middle(data, "webhook_deliveries", "status IN ('failed', 'skipped')")
    assert start["all"] > STEP
    plan = await explain(data, REPLAYS["undelivered"], TENANT, start["created_at"], start["id"], FUTURE, STEP)
    assert_frugal(plan, rows=STEP + 2 * PARTITIONS, pages=2 * STEP + 6 * PARTITIONS)
    assert plan.root["Actual Rows"] == STEP


async def test_a_tenants_events_are_read_by_time(data: Connection) -> None:
    start = await middle(data, "events")
    plan = await explain(
        data, REPLAYS["events_by_time"], TENANT, start["created_at"], start["id"], FUTURE, STEP
    )
    assert_frugal(plan, rows=STEP + 2 * PARTITIONS, pages=2 * STEP + 6 * PARTITIONS)


async def test_a_tenants_events_are_read_by_position_up_to_the_limit(data: Connection) -> None:
    positions = 500
    plan = await explain(
        data, REPLAYS["events_by_position"], TENANT, 20_000, history_database.LOGGED, positions
    )
    assert_frugal(plan, rows=positions + 2 * PARTITIONS, pages=positions + 6 * PARTITIONS)


async def test_a_step_changes_its_rows_by_index(data: Connection) -> None:
    events, deliveries = await columns(data, "events"), await columns(data, "webhook_deliveries")
    found = await explain(data, REPLAYS["deliveries_of_events"], TENANT, *events, None)
    assert_frugal(found, rows=2 * STEP, pages=8 * STEP)
    replayed = await explain(data, REPLAYS["replay"], TENANT, *deliveries, ["failed", "delivered"], None)
    assert_frugal(replayed, rows=5 * STEP, pages=60 * STEP)
    backfilled = await explain(data, REPLAYS["backfill"], TENANT, UUID(int=7), *events, ["invoice_created"])
    assert_frugal(backfilled, rows=2 * STEP, pages=60 * STEP)


_TO_MANY_ENDPOINTS = """
INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, attempts, due_at,
                                retry_at, settled_at)
SELECT gen_random_uuid(), $1, gen_random_uuid(), e.id, 'invoice_created', e.created_at, 'delivered', 1, NULL, NULL, now()
  FROM unnest($2::uuid[], $3::timestamptz[]) AS e (id, created_at), generate_series(1, 40)
"""


async def test_a_step_for_one_endpoint_reads_no_others_deliveries(data: Connection) -> None:
    ids, created_at = await columns(data, "events")
    going = data.transaction()
    await going.start()
    try:
        await data.execute(_TO_MANY_ENDPOINTS, TENANT, ids, created_at)
        endpoint = await data.fetchval(
            "SELECT endpoint_id FROM webhook_deliveries WHERE event_id = $1", ids[0]
        )
        plan = await explain(data, REPLAYS["deliveries_of_events"], TENANT, ids, created_at, endpoint)
    finally:
        await going.rollback()
    assert plan.root["Actual Rows"] >= 1
    assert_frugal(plan, rows=STEP, pages=8 * STEP)


@pytest.mark.parametrize("status", ["failed", "skipped"])
@pytest.mark.parametrize("start", ["first page", "a later one"])
async def test_a_page_of_undelivered_deliveries_skips_delivered_ones(
    data: Connection, status: str, start: str
) -> None:
    """Half of the rows that it reads have the other status."""
    limit = 11
    after = await middle(data, "webhook_deliveries", "status = 'failed'") if start != "first page" else None
    plan = await explain(
        data,
        HISTORY["list_undelivered"],
        *(TENANT, status, None, after and after["created_at"], after and after["id"], limit),
    )
    assert_frugal(plan, rows=4 * limit + 2 * PARTITIONS, pages=6 * limit + 6 * PARTITIONS)


async def test_counting_skipped_deliveries_stops_at_the_limit(data: Connection) -> None:
    endpoint = await data.fetchval("SELECT endpoint_id FROM webhook_deliveries WHERE status = 'skipped'")
    plan = await explain(data, REPLAYS["skipped_since"], TENANT, endpoint, PAST, STEP)
    assert_frugal(plan, rows=STEP + 2 * PARTITIONS, pages=2 * STEP + 6 * PARTITIONS)


async def test_counting_waiting_retries_stops_at_the_limit(data: Connection) -> None:
    plan = await explain(data, SWITCHES["retries"], STEP)
    assert plan.full_scans() <= {"delivery_switches"}  # which has one row
    assert plan.rows_read <= STEP + 2 * PARTITIONS
