"""After weeks of a simulated business every view shows, to the last row, what SQL reckons from the events alone."""

import signal
from collections.abc import AsyncIterator
from random import Random

import asyncpg
import pytest
import pytest_asyncio

from schema.connections.database import Database
from schema.event_log import log
from schema.modes import Mode
from schema.queries import load
from schema.read_models import projections
from schema.read_models.projections import generations
from schema.read_models.rollups import ROLLUPS, Movement
from tests.faults.length import SEED, length
from tests.support.events import record_many
from tests.support.plans import explain
from tests.support.read_models.expected_rollups import PER_MONTH, differences
from tests.support.read_models.rollups import RollupsFollower, rebuilding, simulate_weeks
from tests.support.servers.connections import SUPERUSER, Connect, connections
from tests.support.servers.databases import OWNER, Cluster
from tests.support.servers.duro_process import duro, eventually, settings

pytestmark = pytest.mark.drill

DAYS, SIGNUPS = length((62, 0.8), (365, 0.8))
KILLS, KILLED_BATCH = length((6, 40), (60, 200))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The name of a database, to be copied: events with positions, and no consumer yet."""
    async with cluster.fresh_database(template) as name:
        async with (
            Database.open(cluster.url(name), cluster.key, durable=False) as database,
            connections(cluster, name) as connect,
        ):
            await simulate_weeks(database, await connect(OWNER), DAYS, SIGNUPS)
        yield name


@pytest.fixture
async def copy(cluster: Cluster, played: str) -> AsyncIterator[str]:
    async with cluster.fresh_database(played) as name:
        yield name


@pytest.fixture
async def database(cluster: Cluster, copy: str) -> AsyncIterator[Database]:
    async with Database.open(cluster.url(copy), cluster.key) as database:
        yield database


@pytest.fixture
async def connect(cluster: Cluster, copy: str) -> AsyncIterator[Connect]:
    async with connections(cluster, copy) as connect:
        yield connect


@pytest.fixture
async def superuser(connect: Connect) -> asyncpg.Connection:
    return await connect(SUPERUSER)


@pytest.fixture
def following(database: Database) -> RollupsFollower:
    return RollupsFollower(database)


async def test_every_view_is_what_the_events_come_to(
    following: RollupsFollower, superuser: asyncpg.Connection
) -> None:
    await following.run_to_end()
    assert await differences(superuser) == {}


async def test_what_the_business_went_through_is_no_small_thing(following: RollupsFollower) -> None:
    """Else the views would be compared where there is nothing to see."""
    await following.run_to_end()
    moved = await following.pool.fetch("SELECT DISTINCT kind FROM movement_hours")
    assert {row["kind"] for row in moved} >= set(Movement) - {Movement.SWITCH}
    risks = await following.pool.fetch("SELECT DISTINCT kind FROM recovery_hours")
    assert {row["kind"] for row in risks} >= {"at_risk", "recovered", "exhausted"}
    assert len({row["currency"] for row in await following.view("daily_revenue")}) == 3
    assert sum(row["refunded"] for row in await following.view("daily_revenue")) > 0


async def test_final_mrr_equals_the_subscriptions_prices(
    following: RollupsFollower, superuser: asyncpg.Connection
) -> None:
    """By rows that no event was asked for. A trial that ended past due has paid no cycle."""
    await following.run_to_end()
    charged = "coalesce(p.charge_currency, p.currency)::text"
    price = "CASE WHEN p.fx_rate IS NULL THEN p.amount::bigint ELSE round(p.amount * p.fx_rate)::bigint END"
    books = await superuser.fetch(
        f"SELECT format_id('ten', s.tenant_id) AS tenant_id, {charged} AS currency, count(*) AS subscriptions,"
        f"       sum({PER_MONTH.format(amount=price, interval='p.interval')})::bigint AS closing"
        "   FROM subscriptions s JOIN plans p ON p.tenant_id = s.tenant_id AND p.id = s.plan_id"
        "  WHERE s.status = 'active' OR s.status = 'past_due' AND s.cycles > 0 GROUP BY 1, 2"
    )
    latest = await superuser.fetch(
        "SELECT DISTINCT ON (tenant_id, currency) tenant_id, currency, subscriptions, closing FROM mrr"
        " ORDER BY tenant_id, currency, day DESC"
    )
    assert {tuple(row) for row in latest if row["subscriptions"]} == {tuple(row) for row in books}


async def test_a_recovery_ends_once_under_its_first_failure_code(
    following: RollupsFollower,
) -> None:
    await following.run_to_end()
    rows = await following.pool.fetch(
        "SELECT failure_code, currency, sum(at_risk) - sum(recovered) - sum(exhausted) - sum(cancelled) AS open"
        "  FROM recovery GROUP BY 1, 2"
    )
    assert all(row["open"] >= 0 for row in rows)
    still_open = await following.pool.fetchval("SELECT count(*) FROM subscriptions WHERE status = 'past_due'")
    assert sum(row["open"] for row in rows) == still_open


async def test_a_killed_consumer_counts_each_event_once(
    following: RollupsFollower, superuser: asyncpg.Connection, database: Database
) -> None:
    """Its process dies between what it wrote and its commit, or about the time of the commit; the next one goes on."""
    chance, env = Random(SEED), settings(database.url, database.key)
    killed = 0
    while killed < KILLS and await log.backlog(following.pool, ROLLUPS) > 20 * KILLED_BATCH:
        arguments = (str(KILLED_BATCH), str(chance.randint(1, 5)), str(int(chance.random() < 0.6)))
        async with duro(*arguments, env=env, module=("tests.faults.rollups_worker",)) as worker:
            await worker.said()
            worker.send(signal.SIGKILL)
            await worker.ended()
        killed += 1
    assert killed >= KILLS / 2
    await eventually(following.is_caught_up, "the last one's session is gone")
    assert await differences(superuser) == {}


async def test_a_rebuild_under_load_equals_the_serving_generation(
    following: RollupsFollower, superuser: asyncpg.Connection, database: Database
) -> None:
    """From the first event on, in other batches, and the former one serves until then."""
    pool = database.data(Mode.TEST)
    await following.run_to_end()
    await projections.begin_rebuild(pool, ROLLUPS)
    building, finished = rebuilding(pool, batch_size=300), False
    tenants = [row["id"] for row in await pool.fetch("SELECT id FROM tenants")]
    while not finished:
        for tenant in tenants:
            await record_many(pool, tenant, 7)
        await following.run_to_end()
        if await building.step() < building._most:
            assert await differences(superuser) == {}
            finished = await projections.finish_rebuild(pool, ROLLUPS)
    assert (await generations(superuser, ROLLUPS)).serving == 2
    assert await differences(superuser) == {}
    await following.run_to_end()
    await projections.drop_generations(pool, ROLLUPS)
    assert await differences(superuser) == {}
    assert await pool.fetchval("SELECT max(generation) = 2 AND min(generation) = 2 FROM subscription_states")


async def test_a_batch_looks_up_its_subscriptions_and_nothing_else(
    following: RollupsFollower, superuser: asyncpg.Connection
) -> None:
    """With the pools' planner settings, and before any statistics."""
    await following.run_to_end()
    rows = await following.pool.fetch("SELECT tenant_id, subscription_id FROM subscription_states LIMIT 20")
    known = [[row["tenant_id"] for row in rows], [row["subscription_id"] for row in rows]]
    async with following.pool.acquire() as connection:
        plan = await explain(connection, load("rollups")["states"], 1, *known)
    assert plan.full_scans() == set()
    assert plan.rows_read <= 2 * len(rows)
