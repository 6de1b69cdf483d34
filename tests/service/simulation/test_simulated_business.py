"""A business is simulated for some months, once for all tests in this file."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio

from delivery.health.health_watch import HealthWatch
from schema.billing import billing_cases
from schema.connections.database import Database, connect_as_owner
from schema.core import endpoints
from schema.deliveries.endpoint_health import HealthNote, note_health
from schema.event_catalog import catalog
from schema.event_log.partitions import ensure_past_partitions
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.admin.endpoint_probe import send_test
from service.billing.clock import VirtualClock
from service.simulation.simulated_merchants import Trade, enrol
from service.simulation.simulation import Tally
from service.simulation.simulation_setup import Cast, Observed, stage
from service.simulation.trades import TRADES
from tests.support.engine import add_endpoint, engine, running
from tests.support.event_schemas import assert_conforms
from tests.support.servers.databases import Cluster
from tests.support.servers.receiver import receiving

pytestmark = pytest.mark.drill

DAYS = 45
SIGNUPS = 1.2
"""Per day and merchant."""


@dataclass
class Played:
    url: str
    key: bytes
    tenants: list[UUID]
    begins: datetime
    tally: Tally


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(cluster: Cluster, template: str) -> AsyncIterator[Played]:
    """Restless customers in test mode, where cards and not dates decide how charges fare."""
    async with (
        cluster.fresh_database(template) as name,
        Database.open(cluster.url(name), cluster.key, durable=False) as database,
    ):
        begins = await billing_cases.clock(database.core) - timedelta(days=DAYS)
        await ensure_past_partitions(database.data(Mode.TEST), begins)
        clock = VirtualClock(begins, history=True)
        merchants = []
        for kind in ("Kitchen", "Fitness Club"):
            trade = Trade(kind, TRADES[kind], payday_aware=False, signups_per_day={Mode.TEST: SIGNUPS})
            merchants.append((await enrol(database, trade), trade))
        ledgers = {Mode.TEST: Observed(database.data(Mode.TEST), clock)}
        cast = Cast(merchants, ledgers, clock, seed=7, restless=8)
        async with stage(database, cast, lambda _progress: None) as simulation:
            await simulation.run(begins + timedelta(days=DAYS), no_pause, asyncio.Event())
        tenants = [tenant for tenant, _ in merchants]
        yield Played(cluster.url(name), cluster.key, tenants, begins, simulation.tally)


async def no_pause(_moment: datetime) -> None:
    pass


@pytest.fixture
async def database(played: Played) -> AsyncIterator[Database]:
    async with Database.open(played.url, played.key) as database:
        yield database


async def recorded(database: Database) -> list[dict[str, Any]]:
    rows = await database.data(Mode.TEST).fetch(
        "SELECT id, tenant_id, type, data::text AS data, created_at FROM events ORDER BY seq"
    )
    return [{**row, "data": orjson.loads(row["data"])} for row in rows]


async def test_every_billing_event_occurs_and_matches_its_schema(played: Played, database: Database) -> None:
    seen: Counter[str] = Counter()
    for event in await recorded(database):
        assert_conforms(event["type"], event["data"])
        seen[event["type"]] += 1
    assert set(seen) == {name for name in catalog() if not name.startswith("webhook_")}
    assert seen == played.tally.events


async def test_events_have_the_simulated_time_in_order(played: Played, database: Database) -> None:
    moments = defaultdict(list)
    for event in await recorded(database):
        moments[event["data"]["subscriptionId"]].append(event["created_at"])
        assert played.begins < event["created_at"] < played.begins + timedelta(days=DAYS, seconds=1)
    for of_one in moments.values():
        assert of_one == sorted(set(of_one))


async def test_the_books_balance(database: Database) -> None:
    """Payments, charges and events agree, and no charge is left in flight."""
    row = await database.data(Mode.TEST).fetchrow(
        "SELECT (SELECT sum(amount) FROM invoices WHERE status = 'paid') AS invoiced,"
        "       (SELECT sum(amount) FROM payment_attempts WHERE kind = 'charge' AND state = 'succeeded') AS charged,"
        "       (SELECT sum((data->>'amount')::bigint) FROM events"
        "         WHERE type IN ('subscription_payment_success', 'subscription_payment_recovered')) AS in_events,"
        "       (SELECT sum(refunded) FROM payment_attempts) AS refunded,"
        "       (SELECT sum((data->>'amount')::bigint) FROM events"
        "         WHERE type = 'subscription_payment_refunded') AS refunds_in_events,"
        "       (SELECT count(*) FROM payment_attempts WHERE state = 'in_flight') AS under_way,"
        "       (SELECT count(*) FROM subscriptions WHERE fault IS NOT NULL) AS held"
    )
    assert row
    assert row["invoiced"] == row["charged"] == row["in_events"] > 0
    assert row["refunded"] == row["refunds_in_events"] > 0
    assert (row["under_way"], row["held"]) == (0, 0)


async def test_its_events_are_delivered_unchanged(played: Played, database: Database) -> None:
    events = await recorded(database)
    async with receiving() as receiver, engine(database) as ours:
        for tenant in played.tenants:
            await add_endpoint(database, tenant, f"{receiver.url}/{tenant}")
        async with running(*ours.everything()):
            await ours.settled.count(len(events), 60)
        assert Counter(await ours.statuses()) == {"delivered": len(events)}
        arrived = {
            request.event_id: (request.path, orjson.loads(request.body)) for request in receiver.requests
        }
        assert len(receiver.requests) == len(arrived) == len(events)
        for event in events:
            path, body = arrived[format_id(EVENT, event["id"])]
            assert path == f"/{event['tenant_id']}"
            assert (body["type"], body["data"]) == (event["type"], event["data"])


async def test_with_endpoint_events_every_catalog_event_occurs(played: Played, database: Database) -> None:
    data, tenant = database.data(Mode.TEST), played.tenants[0]
    endpoint_id = await add_endpoint(database, tenant, "https://merchant.example/hooks")
    endpoint = await endpoints.show(database.core, endpoint_id)
    await send_test(database, endpoint_id)
    async with data.acquire() as tx, tx.transaction():
        await note_health(tx, [HealthNote(endpoint_id, tenant, False, 3, "HTTP status 500")])
    owner = await connect_as_owner(played.url)
    await owner.execute(
        "UPDATE sandbox.endpoint_health SET failing_since = now() - interval '3 days' WHERE endpoint_id = $1",
        endpoint_id,
    )
    await owner.close()
    await HealthWatch(data).check(asyncio.Event())
    await endpoints.disable(data, endpoint, "The tenant moves.")
    await endpoints.enable(data, endpoint)
    events = await recorded(database)
    for event in events:
        assert_conforms(event["type"], event["data"])
    assert {event["type"] for event in events} == set(catalog())
