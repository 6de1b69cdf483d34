"""A page of the feed costs the same at any depth, with any filter, and while another generation is built.

As in test_query_plans.py: through a pool of Database, whose planner settings are part of the promise, with statistics
and without.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
import pytest_asyncio

from schema.connections.database import Connection, Database
from schema.ids import new_id
from schema.modes import Mode
from schema.queries import load
from schema.read_models.activity_feed import DELIVERIES_COUNTED, ENDPOINTS_LISTED, NewEntry
from tests.support.plans import Plan, explain, planned
from tests.support.read_models import activity_history as past
from tests.support.read_models import history_database
from tests.support.servers.databases import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIVITY: Final = load("activity")
LIMIT: Final = past.PAGE + 1
"""One more than is shown tells that there is more."""
MONTHS: Final = 13


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster, template: str) -> AsyncIterator[str]:
    async with history_database.copied(cluster, template, also=past.ACTIVITY_PAST) as name:
        yield name


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[False, True], ids=["not analyzed", "analyzed"]
)
async def data(request: pytest.FixtureRequest, cluster: Cluster, filled: str) -> AsyncIterator[Connection]:
    """Of a copy: what was analyzed cannot be taken back."""
    async with (
        history_database.copied(cluster, filled, analyze=request.param) as name,
        Database.open(cluster.url(name), cluster.key) as database,
        database.data(Mode.TEST).acquire() as connection,
    ):
        yield connection


@dataclass(frozen=True)
class Listing:
    statement: str
    of: tuple[Any, ...]
    """The arguments after the page's."""
    index: str
    """A part of the name of the one that is walked."""
    begins: str
    """With what the index begins, and how it is entered."""
    branches: int = 1
    """Walks of an index that make one page."""

    def __str__(self) -> str:
        return self.statement


LISTINGS: Final = [
    Listing("list", (), "pkey", "tenant_id"),
    Listing("by_type", ([past.TYPE],), "activity_type_key", "hashtextextended"),
    Listing(
        "by_type", ([past.TYPE, "invoice_created", past.RARE],), "activity_type_key", "hashtextextended", 3
    ),
    Listing("by_customer", (None, past.CUSTOMER), "customer_id", "customer_id"),
    Listing("by_subscription", (None, None, UUID(int=3)), "subscription_id", "subscription_id"),
    Listing("by_invoice", (None, None, UUID(int=4)), "invoice_id", "invoice_id"),
    Listing("by_subject", (None, past.CUSTOMER, UUID(int=5), "pay"), "subject_id", "subject_id"),
]
listings = pytest.mark.parametrize("listing", LISTINGS, ids=str)


def arguments(
    listing: Listing,
    after: tuple[datetime | None, UUID | None] = (None, None),
    limit: int = LIMIT,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[Any, ...]:
    return (past.BIG, since, until, *after, limit, *listing.of)


async def page(data: Connection, listing: Listing, number: int) -> Plan:
    """What the page costs, from where the one before it ended."""
    statement, after = ACTIVITY[listing.statement], (None, None)
    if number > 1:
        *_, last = await data.fetch(statement, *arguments(listing, limit=(number - 1) * past.PAGE))
        after = (last["created_at"], last["id"])
    return await explain(data, statement, *arguments(listing, after))


def walked(plan: Plan) -> list[dict[str, Any]]:
    """What was looked at of the feed."""
    return [
        node
        for node in plan.nodes()
        if str(node.get("Relation Name", "")).startswith("activity_") and node["Actual Loops"]
    ]


@listings
async def test_a_page_walks_the_index_of_its_filter(data: Connection, listing: Listing) -> None:
    plan = await page(data, listing, 1)
    assert plan.full_scans() == set()
    assert plan.root["Actual Rows"] == LIMIT
    looked_at = walked(plan)
    assert looked_at
    for node in looked_at:
        assert listing.index in node["Index Name"]
        assert re.match(rf"\(+{listing.begins}\b[^=<>]* = ", node["Index Cond"]), node["Index Cond"]
        assert re.search(r"ROW\(created_at, id\) < ", node["Index Cond"])
        assert node["Scan Direction"] == "Backward"
    assert plan.rows_read <= listing.branches * (LIMIT + 1) + 1


@listings
async def test_page_500_costs_what_page_1_costs(data: Connection, listing: Listing) -> None:
    """To the page of memory: a deep page may end in the middle of a few more of them. The first of all has the months to
    come before it, which are empty."""
    first, deep = await page(data, listing, 2), await page(data, listing, past.DEEP)
    assert deep.root["Actual Rows"] == first.root["Actual Rows"] == LIMIT
    assert deep.rows_read <= first.rows_read + listing.branches
    assert deep.buffers <= 1.1 * first.buffers + 6
    assert first.buffers <= listing.branches * (LIMIT + 6 * MONTHS)


@listings
async def test_other_generations_are_not_scanned(data: Connection, listing: Listing) -> None:
    looked_at = {node["Relation Name"] for node in walked(await page(data, listing, 2))}
    assert looked_at
    assert all(name.startswith("activity_g1_") for name in looked_at)


@listings
async def test_months_outside_the_bounds_are_not_scanned(data: Connection, listing: Listing) -> None:
    month = await data.fetchval("SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'")
    bounds = {"since": month, "until": month + timedelta(days=20)}
    plan = await explain(data, ACTIVITY[listing.statement], *arguments(listing, **bounds))
    assert {node["Relation Name"] for node in walked(plan)} == {f"activity_g1_{month:%Y_%m}"}
    assert plan.root["Actual Rows"] == LIMIT


async def test_a_rare_type_is_found_by_its_index(data: Connection) -> None:
    listing = Listing("by_type", ([past.RARE],), "activity_type_key", "hashtextextended")
    plan = await explain(data, ACTIVITY["by_type"], *arguments(listing, limit=1000))
    found = plan.root["Actual Rows"]
    assert 10 < found < 50
    assert plan.rows_read <= found + 1


async def test_delivery_summaries_are_index_lookups(data: Connection) -> None:
    rows = await data.fetch(ACTIVITY["list"], *arguments(LISTINGS[0], limit=100))
    events, moments = [row["id"] for row in rows], [row["created_at"] for row in rows]
    plan = await explain(
        data, ACTIVITY["deliveries_of"], past.BIG, events, moments, DELIVERIES_COUNTED, ENDPOINTS_LISTED
    )
    assert plan.root["Actual Rows"] == 100
    assert plan.full_scans() == set()
    assert plan.rows_read <= 3 * 100
    assert plan.buffers <= 8 * 100
    entered = {node["Index Name"] for node in plan.nodes() if "Index Name" in node and node["Actual Loops"]}
    assert all("event_id_endpoint_id" in index for index in entered)


async def test_writing_entries_reads_no_table(data: Connection) -> None:
    entry = NewEntry(
        new_id(),
        past.BIG,
        datetime.now(UTC),
        1,
        past.TYPE,
        "summary",
        "pay",
        new_id(),
        *([new_id()] * 3),
        1,
        "NGN",
        "{}",
    )
    plan = await explain(data, ACTIVITY["add"], 1, *([value] for value in entry))
    assert plan.rows_read == 0
    assert plan.full_scans() == set()


async def test_a_plan_made_on_empty_tables_stays_right(
    data: Connection, cluster: Cluster, template: str
) -> None:
    now = {name: entries(await planned(data, statement)) for name, statement in ACTIVITY.items()}
    async with (
        cluster.fresh_database(template) as name,
        Database.open(cluster.url(name), cluster.key) as database,
        database.data(Mode.TEST).acquire() as empty,
    ):
        early = {name: entries(await planned(empty, statement)) for name, statement in ACTIVITY.items()}
    assert early == now


def entries(plan: Plan) -> set[tuple[str, str]]:
    """The indexes without the names of their partitions, and how they are entered."""
    return {
        (re.sub(r"_\d{4}_\d\d|_g\d", "", node["Index Name"]), node.get("Index Cond", ""))
        for node in plan.nodes()
        if "Index Name" in node
    }
