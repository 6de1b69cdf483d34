"""What a scrape tells of the database is what is in it, and asking often costs no more than asking once."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Lane
from schema.event_log.partitions import ensure_partitions
from schema.failures import PartFailures
from schema.modes import Mode
from schema.read_models import metrics
from schema.read_models.metrics import EndpointsDue, InactiveEndpoints, UnhealthyEndpoints, WaitingDeliveries
from service.worker.projection_consumers import CONSUMERS
from service.worker.telemetry import database_facts
from service.worker.telemetry.database_facts import FactsReader, ModeFacts, kept_for_s
from tests.support.deliveries import new_endpoint as add_endpoint
from tests.support.deliveries import plan
from tests.support.events import record_many, sequence_all, sequenced
from tests.support.servers.connections import LIVE, Connect
from tests.support.servers.databases import OWNER

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture
def reader(database: Database) -> FactsReader:
    return FactsReader(database, PartFailures("metrics"))


async def read(database: Database, mode: Mode = Mode.TEST) -> ModeFacts:
    return await ModeFacts.read(database.data(mode))


async def wait_since(
    database: Database, tenant: UUID, owner: asyncpg.Connection, *due_for_s: float, lane: Lane = Lane.FIRST
) -> UUID:
    """A new endpoint with one delivery for each of these, due for that long; negative: not yet."""
    endpoint = await add_endpoint(database, tenant)
    data = database.data(Mode.TEST)
    planned = [plan(event, endpoint) for event in await sequenced(data, tenant, len(due_for_s))]
    async with data.acquire() as tx:
        await deliveries.fan_out(tx, planned, deliveries.new_lease(), 1)
    await owner.execute(
        "UPDATE sandbox.webhook_deliveries d SET lane = $3, due_at = now() - make_interval(secs => n.since)"
        "  FROM unnest($1::uuid[], $2::float8[]) AS n (id, since) WHERE d.id = n.id",
        [delivery.id for delivery in planned],
        due_for_s,
        lane,
    )
    return endpoint


def held(found: Sequence[EndpointsDue]) -> dict[str, tuple[int, float]]:
    """endpoints and age in whole seconds, by why they are held."""
    return {due.held: (due.endpoints, round(due.oldest_due_seconds, -1)) for due in found}


# Events


async def test_lag_is_reported_in_events_and_seconds(database: Database, tenant: UUID) -> None:
    await record_many(database.data(Mode.LIVE), tenant, 3)
    await sequence_all(database.data(Mode.LIVE))
    await record_many(database.data(Mode.LIVE), tenant, 2)
    statuses = (await read(database, Mode.LIVE)).consumers
    assert {status.consumer for status in statuses} == set(CONSUMERS)
    for status in statuses:
        assert (status.lag, status.unsequenced) == (5, 2)
        assert status.lag_seconds is not None
        assert 0 < status.lag_seconds < 60
    for status in (await read(database, Mode.TEST)).consumers:
        assert (status.lag, status.lag_seconds) == (0, None)


async def test_the_lead_of_partitions_is_the_database_s(database: Database) -> None:
    """The test database begins with one month ahead; a year is what housekeeping keeps."""
    assert (await read(database)).partitions_ahead == 1
    await ensure_partitions(database.data(Mode.TEST))
    assert (await read(database)).partitions_ahead == 12


# Deliveries that wait


async def test_waiting_deliveries_are_counted_by_lane_and_age(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    await wait_since(database, tenant, owner, -HOUR, -HOUR, 1, 2 * MINUTE)
    await wait_since(database, tenant, owner, HOUR, lane=Lane.RETRY)
    found = await read(database)
    assert found.waiting == {Lane.FIRST: WaitingDeliveries(4, 2, 1), Lane.RETRY: WaitingDeliveries(1, 1, 1)}
    assert held(found.endpoints_due[Lane.FIRST]) == {"no": (1, 2 * MINUTE)}
    assert held(found.endpoints_due[Lane.RETRY]) == {"no": (1, HOUR)}
    assert (await read(database, Mode.LIVE)).waiting == dict.fromkeys(Lane, WaitingDeliveries(0, 0, 0))


async def test_a_dead_endpoints_backlog_hides_no_other_endpoint(
    database: Database, tenant: UUID, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "COUNTED", 5)
    await wait_since(database, tenant, owner, *[MINUTE / 2] * 20)
    await wait_since(database, tenant, owner, HOUR)
    await wait_since(database, tenant, owner, -HOUR)
    found = await read(database)
    assert found.waiting[Lane.FIRST] == WaitingDeliveries(5, 5, 0)
    assert held(found.endpoints_due[Lane.FIRST]) == {"no": (2, HOUR)}


async def test_no_more_endpoints_are_visited_than_allowed(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    for _ in range(5):
        await wait_since(database, tenant, owner, MINUTE)
    due = await metrics.endpoints_due(database.data(Mode.TEST), Lane.FIRST, visit=3)
    assert held(due) == {"no": (3, MINUTE)}


async def test_it_is_told_why_what_is_due_is_not_sent(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    """So that an alert rings for what should have been sent, and not for what a person or a breaker holds."""
    for lane in Lane:
        paused = await wait_since(database, tenant, owner, HOUR, lane=lane)
        slow = await wait_since(database, tenant, owner, 2 * HOUR, lane=lane)
        broken = await wait_since(database, tenant, owner, 3 * HOUR, lane=lane)
        await wait_since(database, tenant, owner, MINUTE, lane=lane)
        await owner.execute("UPDATE core.webhook_endpoints SET paused = true WHERE id = $1", paused)
        await owner.execute("UPDATE core.webhook_endpoints SET rate_limit = 5 WHERE id = $1", slow)
        await make_troubled(owner, tenant, broken, "now()", "now() + interval '1 minute'")
    reasons = {
        "paused": (1, HOUR),
        "rate_limit": (1, 2 * HOUR),
        "breaker": (1, 3 * HOUR),
        "no": (1, MINUTE),
    }
    found = await read(database)
    assert held(found.endpoints_due[Lane.FIRST]) == held(found.endpoints_due[Lane.RETRY]) == reasons
    assert not found.retries_paused

    await owner.execute("UPDATE sandbox.delivery_switches SET retries_paused_at = now()")
    found = await read(database)
    assert held(found.endpoints_due[Lane.FIRST]) == reasons
    assert held(found.endpoints_due[Lane.RETRY]) == {"retries_paused": (4, 3 * HOUR)}
    assert found.retries_paused


# Endpoints


async def make_troubled(
    owner: asyncpg.Connection, tenant: UUID, endpoint: UUID, failing_since: str, open_until: str
) -> None:
    await owner.execute(
        "INSERT INTO sandbox.endpoint_health (endpoint_id, tenant_id, failing_since, open_until)"
        f" VALUES ($1, $2, {failing_since}, {open_until})",
        endpoint,
        tenant,
    )


async def test_endpoints_in_trouble_are_counted_unless_they_are_disabled(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    soon, before = "now() + interval '1 minute'", "now() - interval '1 minute'"
    states = [("now()", "NULL"), ("now()", soon), ("now()", before), ("NULL", before), ("NULL", "NULL")]
    for failing_since, open_until in states:
        for enabled in (True, False):
            endpoint = await add_endpoint(database, tenant, enabled=enabled)
            await make_troubled(owner, tenant, endpoint, failing_since, open_until)
    assert (await read(database)).unhealthy_endpoints == UnhealthyEndpoints(failing=3, open=1, half_open=2)
    assert (await read(database, Mode.LIVE)).unhealthy_endpoints == UnhealthyEndpoints(0, 0, 0)


async def test_endpoints_out_of_service_are_counted_by_mode(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    for enabled, paused in ((True, False), (True, True), (False, True), (False, False)):
        endpoint = await add_endpoint(database, tenant, enabled=enabled)
        await owner.execute("UPDATE core.webhook_endpoints SET paused = $2 WHERE id = $1", endpoint, paused)
    assert await metrics.inactive_endpoints(database.core) == [
        InactiveEndpoints("test", disabled=2, paused=1)
    ]


# Transactions


async def test_the_transaction_open_for_longest_is_told_with_its_pid(
    database: Database, owner: asyncpg.Connection, connect: Connect
) -> None:
    """Whether or not it has written or read anything."""
    async with owner.transaction():
        await owner.execute("SELECT")
        async with (younger := await connect(OWNER)).transaction():
            await younger.execute("CREATE TEMPORARY TABLE mine ()")
            found = await metrics.oldest_transaction(database.core)
    assert found.pid == owner.get_server_pid()
    assert found.seconds is not None
    assert 0 < found.seconds < 60
    assert (await metrics.oldest_transaction(database.core)).seconds is None


async def test_hidden_transactions_are_counted(
    database: Database, superuser: asyncpg.Connection, connect: Connect
) -> None:
    """The superuser's, for one. The service's own are short and do not count."""
    ours = await connect(LIVE)
    stranger = await connect("postgres")
    async with ours.transaction(isolation="repeatable_read"), stranger.transaction():
        await ours.fetch("SELECT * FROM events")
        await stranger.execute("CREATE TEMPORARY TABLE mine ()")
        await superuser.execute(f"REVOKE pg_read_all_stats FROM {OWNER}")  # as on many a managed server
        try:
            found = await metrics.oldest_transaction(database.core)
        finally:
            await superuser.execute(f"GRANT pg_read_all_stats TO {OWNER}")
        assert (found.pid, found.hidden) == (None, 1)
        found = await metrics.oldest_transaction(database.core)
        assert found.pid == ours.get_server_pid()
        assert found.hidden == 0


# How often


async def test_concurrent_scrapes_share_a_cached_reading(
    reader: FactsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = await asyncio.gather(*(reader.facts() for _ in range(20)))
    assert all(each is first for each in others)
    assert await reader.facts() is first
    monkeypatch.setattr(
        database_facts, "monotonic", lambda: first.read_at + database_facts.KEPT_FOR_S_AT_MOST
    )
    assert await reader.facts() is not first


async def test_who_stops_waiting_does_not_end_it_for_the_others(reader: FactsReader) -> None:
    one, other = (asyncio.create_task(reader.facts()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert (await other).core is not None


async def test_a_silent_schema_loses_only_its_own_facts(
    reader: FactsReader, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_facts, "ANSWER_WITHIN_S", 0.5)
    async with owner.transaction():
        await owner.execute("LOCK TABLE sandbox.endpoint_health IN ACCESS EXCLUSIVE MODE")
        found = await reader.facts()
    assert found.core is not None
    assert found.modes.keys() == {Mode.LIVE}
    assert found.core.oldest_transaction.pid == owner.get_server_pid(), "and it is told who is to blame"
    monkeypatch.setattr(database_facts, "monotonic", lambda: found.read_at + database_facts.KEPT_FOR_S)
    assert (await reader.facts()).modes.keys() == set(Mode), "and it is not missing for longer than need be"


def test_reading_takes_at_most_one_percent_of_the_time() -> None:
    assert [kept_for_s(took, complete=True) for took in (0.001, 0.05, 0.2, 5)] == [5, 5, 20, 60]


def test_what_is_incomplete_is_not_kept_for_long() -> None:
    assert [kept_for_s(took, complete=False) for took in (0.001, 0.2, 5)] == [5, 5, 5]
