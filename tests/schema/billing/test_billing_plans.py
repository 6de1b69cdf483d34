"""The billing statements read what they return and little more, whatever lies behind them and whatever is known of it.

As in test_query_plans.py: through a pool of Database, whose planner settings are part of the promise, with statistics
and without. The first six tests are the rows of the contract's table of hot paths.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from schema.billing.rows import DunningState, Status
from schema.connections.database import Connection, Database
from schema.modes import Mode
from schema.queries import load
from tests.support.billing import billing_history as past
from tests.support.billing.billing_statements import billing_statements
from tests.support.database_catalog import indexes
from tests.support.plans import Plan, explain, planned
from tests.support.read_models import history_database
from tests.support.servers.connections import SUPERUSER, connections
from tests.support.servers.databases import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

BILLING_CASES: Final = load("billing_cases")
SCHEMA: Final = Mode.TEST.schema
LIMIT: Final = past.PAGE + 1
"""One more than is shown tells that there is more."""
BATCH: Final = 100
PASSED_OVER: Final = past.HELD + past.IN_FLIGHT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The name of a database with years of billing."""
    async with history_database.copied(cluster, template, also=past.BILLING_PAST) as name:
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
    """A statement that shows pages of a table, newest first."""

    table: str
    statement: str
    index: str
    columns: Sequence[str]
    """By which the index is entered, and in whose order it is walked."""
    of: Sequence[Any] = (past.BIG,)
    """The arguments before the page's."""
    rows: int = LIMIT
    """Looked at for a page."""
    depth: int = past.DEEP

    def __str__(self) -> str:
        return f"{self.table}.{self.statement}"


BY_TENANT: Final = ("tenant_id", "created_at", "id")
LISTINGS: Final = [
    *(
        Listing(table, "list", f"{table}_by_tenant", BY_TENANT)
        for table in past.TABLES
        if table != "store_settings"
    ),
    Listing(
        "invoices",
        "of_subscription",
        "invoices_by_subscription",
        ("tenant_id", "subscription_id", "created_at", "id"),
        (past.BIG, past.SUBSCRIPTION),
    ),
    Listing(
        "payment_attempts",
        "of_customer",
        "payment_attempts_by_customer",
        ("customer_id", "tenant_id", "created_at", "id"),
        (past.BIG, past.CUSTOMER),
    ),
    Listing(
        "subscriptions",
        "of_phone",
        "subscriptions_by_customer",
        ("tenant_id", "customer_id", "created_at", "id"),
        (past.PHONE,),
        rows=past.TENANTS * (LIMIT + 1),  # a page of each merchant's
        depth=past.OF_PHONE // past.PAGE // 2,
    ),
]
listings = pytest.mark.parametrize("listing", LISTINGS, ids=str)


def assert_frugal(plan: Plan, *, rows: int, pages: int) -> None:
    """At most that many rows looked at, kept or not, and pages touched; and no table read from end to end."""
    assert plan.full_scans() == set()
    assert plan.rows_read <= rows
    assert plan.buffers <= pages


def condition(plan: Plan, index: str) -> str:
    """By what the plan enters the index."""
    (node,) = (node for node in plan.nodes() if node.get("Index Name") == index)
    return str(node.get("Index Cond", ""))


async def assert_entered(data: Connection, plan: Plan, index: str, *columns: str) -> None:
    """The index leads with these columns, and the plan goes in by all of them."""
    found = (await indexes(data, SCHEMA, *past.TABLES))[index]
    assert found["columns"][: len(columns)] == list(columns)
    for column in columns:
        assert re.search(rf"\b{column}\b", condition(plan, index)), column


async def page(data: Connection, listing: Listing, number: int) -> Plan:
    """What the page costs, from where the one before it ended."""
    statement = load(listing.table)[listing.statement]
    after = (None, None)
    if number > 1:
        *_, last = await data.fetch(statement, *listing.of, None, None, (number - 1) * past.PAGE)
        after = (last["created_at"], last["id"])
    return await explain(data, statement, *listing.of, *after, LIMIT)


@listings
async def test_cursor_pagination_of_any_list_walks_an_index_in_its_order(
    data: Connection, listing: Listing
) -> None:
    """`(tenant_id, created_at, id)`, and for what belongs to something smaller than a tenant that in between."""
    plan = await page(data, listing, 1)
    await assert_entered(data, plan, listing.index, *listing.columns)
    assert plan.root["Actual Rows"] == LIMIT
    assert_frugal(plan, rows=listing.rows, pages=listing.rows + 6)


STATUSES: Final = [Status.ACTIVE, Status.TRIALING, Status.INCOMPLETE]
situations = pytest.mark.parametrize(
    ("now", "found"),
    [(past.LONG_AGO, 0), (past.NOW, past.DUE), (past.LATER, BATCH)],
    ids=["caught up", "few due", "deep backlog"],
)


@situations
@pytest.mark.parametrize("status", STATUSES)
async def test_the_renewal_scan_goes_by_status_and_current_period_end(
    data: Connection, status: Status, now: datetime, found: int
) -> None:
    """What is held or whose charge is under way is passed over, a row and a look-up each."""
    plan = await explain(data, BILLING_CASES["lock_due"], status, now, BATCH, None)
    await assert_entered(data, plan, "subscriptions_due", "status", "current_period_end")
    assert plan.root["Actual Rows"] == found
    passed_over = PASSED_OVER if found and status is Status.ACTIVE else 0
    assert_frugal(plan, rows=found + 2 * passed_over, pages=6 * found + 4 * passed_over + 4)


@pytest.mark.parametrize(
    "now", [past.LONG_AGO, past.NOW, past.LATER], ids=["caught up", "few due", "deep backlog"]
)
@pytest.mark.parametrize("state", [DunningState.WAITING, DunningState.AWAITING_CARD])
async def test_the_dunning_scan_goes_by_state_and_next_attempt_at(
    data: Connection, state: DunningState, now: datetime
) -> None:
    plan = await explain(data, BILLING_CASES["lock_recovering"], state, now, BATCH, None)
    await assert_entered(data, plan, "dunning_schedules_due", "state", "next_attempt_at")
    found = plan.root["Actual Rows"]
    assert {past.LONG_AGO: found == 0, past.NOW: 0 < found < 20, past.LATER: found == BATCH}[now]
    passed_over = 10 if found else 0  # held, or with a charge under way
    assert_frugal(plan, rows=2 * found + 2 * passed_over, pages=8 * found + 6 * passed_over + 4)


async def test_the_portal_finds_a_phones_subscriptions_across_merchants_by_phone(data: Connection) -> None:
    """A page of each merchant's at most, however many they have: then the newest of those."""
    plan = await explain(data, load("subscriptions")["of_phone"], past.PHONE, None, None, LIMIT)
    await assert_entered(data, plan, "customers_by_phone", "phone")
    assert plan.rows_read == past.TENANTS * (1 + LIMIT)
    nobody = await explain(data, load("subscriptions")["of_phone"], "+2340000000000", None, None, LIMIT)
    assert_frugal(nobody, rows=0, pages=3)


async def test_checkout_finds_a_customer_by_tenant_and_email(data: Connection) -> None:
    """Both when it looks, and when it adds or reuses one in a single statement."""
    customers = load("customers")
    known = await data.fetchrow(
        "SELECT * FROM customers WHERE tenant_id = $1 AND email IS NOT NULL LIMIT 1", past.BIG
    )
    plan = await explain(data, customers["by_email"], past.BIG, known["email"])
    await assert_entered(data, plan, "customers_by_email", "tenant_id", "email")
    assert plan.root["Actual Rows"] == 1
    assert_frugal(plan, rows=1, pages=8)
    again = await data.fetchval(
        "SELECT array_agg(c)::text FROM customers c WHERE tenant_id = $1 AND id = $2", past.BIG, known["id"]
    )
    reused = await explain(data, customers["reuse"], again)
    assert reused.root["Conflict Arbiter Indexes"] == ["customers_by_email"]
    assert_frugal(reused, rows=0, pages=60)


async def test_a_customers_transactions_are_found_by_customer_id(data: Connection) -> None:
    """The customer with thousands, one with a few, and nobody."""
    statement = load("payment_attempts")["of_customer"]
    few = await data.fetchval(
        "SELECT customer_id FROM payment_attempts WHERE tenant_id = $1 AND customer_id <> $2 LIMIT 1",
        past.BIG,
        past.CUSTOMER,
    )
    for customer, most in ((past.CUSTOMER, LIMIT), (few, 4), (UUID(int=0), 0)):
        plan = await explain(data, statement, past.BIG, customer, None, None, LIMIT)
        await assert_entered(data, plan, "payment_attempts_by_customer", "customer_id")
        assert_frugal(plan, rows=most, pages=most + 6)


@listings
async def test_page_500_costs_what_page_1_costs(data: Connection, listing: Listing) -> None:
    """To the page of memory: a deep page may end in the middle of a few more of them."""
    first, deep = await page(data, listing, 1), await page(data, listing, listing.depth)
    assert deep.root["Actual Rows"] == first.root["Actual Rows"] == LIMIT
    assert deep.rows_read <= first.rows_read
    assert deep.buffers <= 1.1 * first.buffers + 4


async def test_every_statement_that_shows_pages_is_among_those_held_to_their_index() -> None:
    paged = {
        name
        for name, statement in billing_statements()
        if re.search(r"ORDER BY (\w\.)?created_at DESC, (\w\.)?id DESC", statement)
    }
    assert {str(listing) for listing in LISTINGS} == paged
    assert len(paged) == 12


@pytest.mark.parametrize("count", [1, 10, BATCH])
async def test_reading_cases_costs_a_few_look_ups_for_each_key(data: Connection, count: int) -> None:
    """Of all that can concern a subscription: charges and refunds under way, what is owed, and its recovery."""
    found = await data.fetch(
        """
        (SELECT tenant_id, subscription_id AS id FROM payment_attempts WHERE state = 'in_flight' LIMIT 45)
        UNION ALL
        (SELECT tenant_id, id FROM subscriptions WHERE status IN ('past_due', 'unpaid', 'active') AND tenant_id <> $1 LIMIT 100)
        """,
        past.BIG,
    )
    keys = found[:: len(found) // count][:count]
    plan = await explain(
        data, BILLING_CASES["cases"], [key["tenant_id"] for key in keys], [key["id"] for key in keys]
    )
    assert plan.root["Actual Rows"] == count
    assert_frugal(plan, rows=9 * count, pages=30 * count)


async def test_attempt_changes_cost_a_few_lookups_each(data: Connection) -> None:
    under_way = await data.fetch("SELECT tenant_id, id FROM payment_attempts WHERE state = 'in_flight'")
    keys = [row["tenant_id"] for row in under_way], [row["id"] for row in under_way]
    locked = await explain(data, BILLING_CASES["lock_of_attempts"], *keys)
    assert locked.root["Actual Rows"] == len(under_way)
    assert_frugal(locked, rows=2 * len(under_way), pages=12 * len(under_way))
    for limit in (0, 5):
        taken = await explain(data, BILLING_CASES["take_over"], past.NOW, limit, past.LATER, None)
        await assert_entered(data, taken, "payment_attempts_leased", "leased_until")
        assert taken.root["Actual Rows"] == limit
        assert_frugal(taken, rows=3 * limit + 1, pages=40 * limit + 4)
    charge = await data.fetchval(
        "SELECT id FROM payment_attempts WHERE tenant_id = $1 AND state = 'succeeded' LIMIT 1", past.BIG
    )
    reserved = await explain(data, load("payment_attempts")["reserve_refund"], past.BIG, charge, 1)
    assert reserved.root["Actual Rows"] == 1
    assert_frugal(reserved, rows=1, pages=80)


async def test_next_due_reads_one_index_end_per_kind(
    data: Connection,
) -> None:
    assert_frugal(
        await explain(data, BILLING_CASES["next_due"], past.NOW, None),
        rows=12 + PASSED_OVER,
        pages=25 + PASSED_OVER,
    )


async def test_the_status_counts_only_what_is_due(data: Connection) -> None:
    """It looks at what it counts, of tables in which most is neither due, under way, waiting nor held."""
    plan = await explain(data, BILLING_CASES["status"], past.NOW, past.NOW)
    row = await data.fetchrow(BILLING_CASES["status"], past.NOW, past.NOW)
    counted = sum(value for name, value in row.items() if name != "renewals_late_by")
    assert_frugal(plan, rows=counted + 2 + 3 * past.HELD, pages=2 * counted + 60 + 3 * past.HELD)
    assert_frugal(await explain(data, BILLING_CASES["held"], past.NOW, 20), rows=20, pages=30)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("save_subscriptions", "subscriptions"),
        ("save_invoices", "invoices"),
        ("save_attempts", "payment_attempts"),
        ("save_schedules", "dunning_schedules"),
    ],
)
async def test_writing_rows_finds_each_by_its_key(data: Connection, statement: str, table: str) -> None:
    count = 20
    rows = await data.fetchval(f"SELECT array_agg(r)::text FROM (SELECT r FROM {table} r LIMIT {count}) x")
    assert_frugal(await explain(data, BILLING_CASES[statement], rows), rows=count, pages=60 * count)


async def test_expiring_checkouts_looks_at_open_ones_alone(data: Connection) -> None:
    plan = await explain(data, load("checkout_sessions")["expire"], past.NOW, 500)
    await assert_entered(data, plan, "checkout_sessions_open", "expires_at")
    assert_frugal(plan, rows=60, pages=600)


async def test_no_statement_reads_a_table_or_an_index_from_end_to_end(data: Connection) -> None:
    """Each index is entered by its first column, except those that hold nothing but what is asked for."""
    known = await indexes(data, SCHEMA, *past.TABLES)
    for name, statement in billing_statements():
        plan = await planned(data, statement)
        for node in plan.nodes():
            assert node["Node Type"] != "Seq Scan", f"{name} reads {node['Relation Name']}"
            if "Index Name" in node and not known[node["Index Name"]]["partial"]:
                first = known[node["Index Name"]]["columns"][0]
                assert re.search(rf"\b{first}\b", node.get("Index Cond", "")), f"{name}: {node}"


async def test_a_plan_made_on_empty_tables_stays_right(
    data: Connection, cluster: Cluster, template: str
) -> None:
    """A pool keeps its plans until the tables are analyzed, and much can happen in a busy first minute."""
    now = {name: entries(await planned(data, statement)) for name, statement in billing_statements()}
    async with (
        cluster.fresh_database(template) as name,
        Database.open(cluster.url(name), cluster.key) as database,
        database.data(Mode.TEST).acquire() as empty,
    ):
        early = {name: entries(await planned(empty, statement)) for name, statement in billing_statements()}
    different = {name for name, entered in early.items() if entered != now[name]}
    # By its tenant: one row, that somebody asks for; and what an operator does once in a while.
    assert different <= {"dunning_schedules.get", "billing_cases.release"}


def entries(plan: Plan) -> list[tuple[str, str]]:
    return sorted(
        (node["Index Name"], node.get("Index Cond", "")) for node in plan.nodes() if "Index Name" in node
    )


async def test_deleting_a_plan_or_link_finds_uses_by_index(data: Connection) -> None:
    """By the server's own count, which sees the look-ups behind a delete. No link leads to the last plan, nobody came by
    the last link but one, and all that BIG sold was of the plan with its own number."""
    unused, unvisited, sold = UUID(int=past.LISTED), UUID(int=past.LISTED - 1), past.BIG
    for table, row, outcome in (
        ("plans", unused, "DELETE 1"),
        ("payment_links", unvisited, "DELETE 1"),
        ("plans", sold, "refused"),
    ):
        tenant = await data.fetchval(f"SELECT tenant_id FROM {table} WHERE id = $1", row)
        transaction = data.transaction()
        await transaction.start()
        scans, rows = await reads(data)
        assert await delete(data, table, tenant, row) == outcome
        after = await reads(data)
        await transaction.rollback()
        assert after[0] == scans
        assert after[1] - rows <= 5


async def delete(data: Connection, table: str, tenant: UUID, row: UUID) -> str:
    try:
        async with data.transaction():
            return await data.execute(f"DELETE FROM {table} WHERE tenant_id = $1 AND id = $2", tenant, row)
    except asyncpg.ForeignKeyViolationError:
        return "refused"


async def reads(data: Connection) -> tuple[int, int]:
    """Scans of whole tables in this transaction so far, and rows found by index."""
    row = await data.fetchrow(
        "SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE schemaname = $1", SCHEMA
    )
    return int(row[0] or 0), int(row[1] or 0)


async def test_the_history_is_one_that_the_constraints_allow(cluster: Cluster, filled: str) -> None:
    """It was written without looking at references and overlaps, which would take the most time of all."""
    async with connections(cluster, filled) as connect:
        assert await past.constraint_violations(await connect(SUPERUSER)) == {}
