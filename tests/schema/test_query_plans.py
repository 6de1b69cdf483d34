"""The hot statements read what they return and little more, whatever lies behind them and whatever is known of it.

All go through a pool of Database, whose planner settings are part of the promise. Without statistics, as right
after a restore or a busy first hour, the plans must be the same.
"""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from schema.connections.database import Connection, Database
from schema.deliveries import delivery_history
from schema.deliveries.deliveries import Lane
from schema.event_log import events, log
from schema.ids import new_id
from schema.modes import Mode
from schema.pages import After
from schema.queries import load
from tests.support.events import sequence_all
from tests.support.plans import Plan, explain
from tests.support.read_models import history_database
from tests.support.servers.databases import Cluster

LOG, DELIVERIES, EVENTS = load("log"), load("deliveries"), load("events")
HISTORY, REPLAYS = load("delivery_history"), load("replays")
TENANT = UUID("00000000-0000-0000-0000-000000000003")
PARTITIONS = 13
LEASE_FOR = timedelta(minutes=5)


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


async def assert_sound_while_empty(data: Connection, plan: Plan) -> None:
    """Each index is entered by its first column. Of partitions known to be empty, as those of coming months are once
    statistics were taken, all indexes look alike; but the plan stays when they fill."""
    rows = await data.fetch(
        "SELECT relname AS index, attname FROM pg_index JOIN pg_class ON oid = indexrelid"
        "  JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
    )
    first_column = {row["index"]: row["attname"] for row in rows}
    for node in plan.nodes():
        if "Index Cond" in node:
            assert re.search(rf"\b{first_column[node['Index Name']]}\b", node["Index Cond"]), node


def assert_frugal(plan: Plan, *, rows: int, pages: int) -> None:
    """At most that many rows looked at, kept or not, and pages touched; and no table read from end to end."""
    assert plan.full_scans() == set()
    assert plan.rows_read <= rows
    assert plan.buffers <= pages


@pytest.mark.parametrize(
    ("behind", "limit", "found"),
    [(0, 500, 0), (10, 500, 10), (20_000, 500, 500), (history_database.LOGGED, 500, 500)],
    ids=["caught up", "slightly behind", "deep backlog", "long history"],
)
async def test_reading_the_log_costs_what_it_returns(
    data: Connection, behind: int, limit: int, found: int
) -> None:
    end = await data.fetchval("SELECT last_pos FROM sequencer")
    plan = await explain(data, LOG["read_after"], end - behind, limit, log.READ_BYTES)
    assert_frugal(plan, rows=2 * found + 2 * PARTITIONS, pages=6 * found + 4 * PARTITIONS)


async def test_a_consumers_backlog_costs_two_lookups(data: Connection) -> None:
    assert_frugal(await explain(data, LOG["backlog"], "fanout"), rows=2, pages=6)
    assert_frugal(await explain(data, LOG["consumer_status"], ["fanout", "activity"]), rows=10, pages=120)


async def test_taking_the_cursor_costs_two_look_ups(data: Connection) -> None:
    """By the server's own count, which sees into the function."""
    await data.fetch(LOG["take_cursor"], "fanout")
    async with data.transaction():
        before = await reads(data)
        await data.fetch(LOG["take_cursor"], "fanout")
        scans, rows = await reads(data)
    assert scans == before[0]
    assert rows - before[1] <= 2


async def reads(data: Connection) -> tuple[int, int]:
    """Scans of whole tables in this transaction so far, and rows found by index."""
    row = await data.fetchrow(
        "SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('consumers', 'cursors')"
    )
    return int(row[0] or 0), int(row[1] or 0)


@pytest.mark.parametrize(("new", "limit"), [(0, 1000), (30, 1000), (3000, 100)])
async def test_sequencing_costs_what_it_appends(data: Connection, new: int, limit: int) -> None:
    """By the server's own count, which sees into the function."""
    await sequence_all(data)
    await record_in_transactions_of_their_own(data, new)
    counts = (
        "SELECT coalesce(sum(seq_scan), 0), coalesce(sum(idx_tup_fetch), 0) FROM pg_stat_xact_user_tables"
        " WHERE relname ~ '^(events|event_log|sequencer)'"
    )
    async with data.transaction():
        before = await data.fetchrow(counts)  # of earlier transactions, until the session has reported them
        assert await data.fetchval("SELECT sequence_events($1)", limit) == min(new, limit)
        after = await data.fetchrow(counts)
    assert after[0] == before[0]
    assert after[1] - before[1] <= min(new, limit) + 2 * PARTITIONS


async def record_in_transactions_of_their_own(data: Connection, count: int) -> None:
    await data.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        f" PERFORM record_event('{TENANT}'::uuid, 'invoice_created', '{{}}'); COMMIT; END LOOP; END $$"
    )


async def test_fan_out_finds_a_tenants_endpoints_by_index(data: Connection) -> None:
    per_tenant = history_database.ENDPOINTS // history_database.TENANTS
    plan = await explain(data, DELIVERIES["endpoints_of_tenants"], [TENANT])
    assert_frugal(plan, rows=3 * per_tenant, pages=7 * per_tenant)
    assert "webhook_endpoints_by_tenant" in plan.indexes


async def test_a_dead_endpoints_backlog_does_not_hide_others(data: Connection) -> None:
    """One step along the index for each endpoint, however many deliveries it has."""
    plan = await explain(data, DELIVERIES["endpoints_waiting"], Lane.FIRST, UUID(int=0), 100)
    steps = history_database.WAITING + 2
    assert_frugal(plan, rows=2 * steps * PARTITIONS, pages=4 * steps * PARTITIONS)
    assert any("endpoint_id_due_at" in index for index in plan.indexes)


@pytest.mark.parametrize("steps", [1, 5, 20])
async def test_a_round_costs_its_steps_however_many_wait(data: Connection, steps: int) -> None:
    plan = await explain(data, DELIVERIES["endpoints_waiting"], Lane.FIRST, UUID(int=0), steps)
    assert_frugal(plan, rows=2 * (steps + 1) * PARTITIONS, pages=4 * (steps + 1) * PARTITIONS)
    assert plan.root["Actual Rows"] == steps


async def test_skipping_costs_what_is_skipped(data: Connection) -> None:
    limit = 20
    plan = await explain(data, DELIVERIES["skip_waiting"], Lane.FIRST, history_database.DEAD_ENDPOINT, limit)
    assert_frugal(plan, rows=6 * limit + 4 * PARTITIONS, pages=40 * limit + 20 * PARTITIONS)


async def test_pacing_costs_a_look_up_for_each_endpoint(data: Connection) -> None:
    count = 50
    endpoints = [UUID(int=number + 1) for number in range(2 * count)]
    await data.execute(DELIVERIES["add_rate_limits"], endpoints)
    wanted = endpoints[:count]
    next_at = [datetime.now(UTC)] * count
    assert_frugal(await explain(data, DELIVERIES["lock_rate_limits"], wanted), rows=count, pages=5 * count)
    assert_frugal(
        await explain(data, DELIVERIES["advance_rate_limits"], wanted, next_at),
        rows=2 * count,
        pages=9 * count,
    )
    assert_frugal(await explain(data, DELIVERIES["add_rate_limits"], wanted), rows=0, pages=5 * count)


async def test_a_claim_costs_what_it_takes(data: Connection) -> None:
    room = 20
    arguments = (Lane.FIRST, [history_database.DEAD_ENDPOINT], [room], 9, 9, LEASE_FOR, True)
    plan = await explain(data, DELIVERIES["claim"], *arguments)
    assert any("endpoint_id_due_at" in index for index in plan.indexes)
    assert_frugal(plan, rows=6 * room + 4 * PARTITIONS, pages=40 * room + 20 * PARTITIONS)


async def settlement(data: Connection) -> tuple[int, tuple[list[object], ...]]:
    """How many deliveries, all of them leased, and the arguments that settle them."""
    rows = await data.fetch(
        "SELECT id, tenant_id, created_at FROM webhook_deliveries WHERE lease IS NOT NULL AND leased_by = 1 LIMIT 50"
    )
    count = len(rows)
    assert count == 50
    return count, (
        *([row["id"] for row in rows], [row["created_at"] for row in rows], [1] * count),
        *(["delivered"] * count, [None] * count, [False] * count, [True] * count),
        [row["tenant_id"] for row in rows],
    )


async def test_settling_costs_what_is_settled(data: Connection) -> None:
    count, arguments = await settlement(data)
    plan = await explain(data, DELIVERIES["settle"], *arguments)
    assert_frugal(plan, rows=4 * count, pages=60 * count)


async def test_recording_attempts_reads_nothing(data: Connection) -> None:
    (row,) = await data.fetch("SELECT id, tenant_id, endpoint_id, created_at FROM webhook_deliveries LIMIT 1")
    plan = await explain(
        data,
        DELIVERIES["record_attempts"],
        *([new_id()], [row["tenant_id"]], [row["id"]], [row["endpoint_id"]], [row["created_at"]], [False]),
        *([datetime.now(UTC)], ["ok"], [200], [None], [None], [None], *([[None]] * 4), [1.0], [True]),
    )
    assert_frugal(plan, rows=0, pages=100)


async def test_no_plan_relies_on_a_partition_being_empty(data: Connection) -> None:
    _, settling = await settlement(data)
    statements: list[tuple[str, Sequence[object]]] = [
        (LOG["read_after"], (0, 500, log.READ_BYTES)),
        (LOG["read_one"], (5,)),
        (DELIVERIES["endpoints_waiting"], (Lane.FIRST, UUID(int=0), 100)),
        (DELIVERIES["claim"], (Lane.FIRST, [history_database.DEAD_ENDPOINT], [20], 9, 9, LEASE_FOR, True)),
        (DELIVERIES["skip_waiting"], (Lane.FIRST, history_database.DEAD_ENDPOINT, 20)),
        (DELIVERIES["settle"], settling),
        (DELIVERIES["take_over"], ([99],)),
        (DELIVERIES["release_unknown_leases"], (99, [5], LEASE_FOR, timedelta(0))),
    ]
    for statement, arguments in statements:
        await assert_sound_while_empty(data, await explain(data, statement, *arguments))


async def test_no_plan_relies_on_an_empty_partition(data: Connection) -> None:
    """What looks at events and deliveries, and what replays them."""
    delivery, event, at = await data.fetchrow(
        "SELECT id, event_id, created_at FROM webhook_deliveries WHERE tenant_id = $1 LIMIT 1", TENANT
    )
    page, until = (at, UUID(int=0), 20), at + timedelta(days=400)
    deliveries, events = ([delivery], [at]), ([event], [at])
    endpoint = history_database.DEAD_ENDPOINT
    statements: list[tuple[str, Sequence[object]]] = [
        (EVENTS["list"], (TENANT, None, *page)),
        (EVENTS["locate"], (event,)),
        (EVENTS["show"], (TENANT, event)),
        (EVENTS["deliveries_of"], (TENANT, event, at)),
        (HISTORY["list"], (TENANT, None, None, *page)),
        (HISTORY["list_undelivered"], (TENANT, "failed", None, *page)),
        (HISTORY["locate"], (delivery,)),
        (HISTORY["show"], (TENANT, delivery)),
        (HISTORY["attempts"], (TENANT, delivery, at)),
        (REPLAYS["replay_one"], (TENANT, delivery)),
        (REPLAYS["undelivered"], (TENANT, at, UUID(int=0), until, 20)),
        (REPLAYS["events_by_time"], (TENANT, at, UUID(int=0), until, 20)),
        (REPLAYS["events_by_position"], (TENANT, 0, 500, 500)),
        (REPLAYS["deliveries_of_events"], (TENANT, *events, endpoint)),
        (REPLAYS["replay"], (TENANT, *deliveries, ["delivered"], None)),
        (REPLAYS["backfill"], (TENANT, UUID(int=7), *events, ["invoice_created"])),
        (REPLAYS["skipped_since"], (TENANT, endpoint, at, 20)),
    ]
    for statement, arguments in statements:
        await assert_sound_while_empty(data, await explain(data, statement, *arguments))


async def test_taking_over_looks_at_leases_alone(data: Connection) -> None:
    leased = history_database.LEASED
    plan = await explain(data, DELIVERIES["take_over"], [99])
    assert_frugal(plan, rows=2 * leased + PARTITIONS, pages=2 * leased + 10 * PARTITIONS)
    release = (99, [5], LEASE_FOR, timedelta(0))
    assert_frugal(
        await explain(data, DELIVERIES["release_unknown_leases"], *release), rows=PARTITIONS, pages=60
    )


async def test_looking_for_orphans_looks_at_leases_alone(data: Connection) -> None:
    leased = history_database.LEASED
    plan = await explain(data, DELIVERIES["release_orphans"], [1], LEASE_FOR, timedelta(0))
    assert_frugal(plan, rows=leased + PARTITIONS, pages=2 * leased + 10 * PARTITIONS)
    found_again = [node for node in plan.nodes() if "(id = orphaned.id)" in node.get("Index Cond", "")]
    assert len(found_again) == PARTITIONS, "each orphan by its id"


async def test_one_delivery_is_found_in_each_partitions_index(data: Connection) -> None:
    delivery = await data.fetchval("SELECT id FROM webhook_deliveries LIMIT 1")
    for statement, arguments in (
        (HISTORY["locate"], (delivery,)),
        (HISTORY["show"], (TENANT, delivery)),
        (REPLAYS["replay_one"], (TENANT, delivery)),
    ):
        assert_frugal(await explain(data, statement, *arguments), rows=2 * PARTITIONS, pages=20 * PARTITIONS)


@pytest.mark.parametrize("listing", ["events", "deliveries"])
async def test_a_page_deep_in_a_list_costs_what_the_first_does(data: Connection, listing: str) -> None:
    limit = 21
    plans = []
    for number in (1, 100):
        after = await page_start(data, listing, number)
        if listing == "events":
            plans.append(await explain(data, EVENTS["list"], TENANT, None, after.created_at, after.id, limit))
        else:
            plans.append(
                await explain(data, HISTORY["list"], TENANT, None, None, after.created_at, after.id, limit)
            )
    for plan in plans:
        assert_frugal(plan, rows=limit + 2 * PARTITIONS, pages=3 * limit + 6 * PARTITIONS)


async def page_start(data: Connection, listing: str, number: int) -> After:
    table = {"events": "events", "deliveries": "webhook_deliveries"}[listing]
    if number == 1:
        return After()
    row = await data.fetchrow(
        f"SELECT created_at, id FROM {table} WHERE tenant_id = $1 ORDER BY created_at DESC, id DESC OFFSET $2 LIMIT 1",
        TENANT,
        20 * number,
    )
    return After(row["created_at"], row["id"])


async def test_one_event_and_its_deliveries_are_found_by_index(data: Connection) -> None:
    row = await data.fetchrow("SELECT id, tenant_id, created_at FROM events ORDER BY seq LIMIT 1")
    shown = await events.show(data, row["tenant_id"], row["id"])
    assert shown.deliveries
    of_event = (row["tenant_id"], row["id"], row["created_at"])
    assert_frugal(await explain(data, EVENTS["show"], *of_event[:2]), rows=4, pages=20 * PARTITIONS)
    assert_frugal(await explain(data, EVENTS["deliveries_of"], *of_event), rows=4, pages=20)
    delivery = next(delivery for delivery in shown.deliveries if delivery.status == "delivered")
    assert (await delivery_history.show(data, row["tenant_id"], delivery.id)).attempts
    attempts = (row["tenant_id"], delivery.id, row["created_at"])
    assert_frugal(await explain(data, HISTORY["attempts"], *attempts), rows=4, pages=20)
