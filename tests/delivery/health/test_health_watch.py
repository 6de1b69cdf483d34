"""Endpoints that fail for long get each warning once, and are disabled after a late failure, whatever worker dies."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from delivery.health import health_watch
from delivery.health.breaker import Step
from delivery.health.health_watch import HealthWatch
from schema.connections.database import Database
from schema.core import endpoints
from schema.deliveries import endpoint_health
from schema.deliveries.endpoint_health import FailingEndpoint, HealthNote
from schema.failures import PartFailures, enter_part
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from schema.queries import load
from schema.timestamps import iso_millis
from tests.support.database_waits import until
from tests.support.engine import add_endpoint, running
from tests.support.event_schemas import assert_conforms
from tests.support.lifecycle_stress import stress_lifecycle
from tests.support.plans import explain
from tests.support.servers.connections import SUPERUSER, Connect
from tests.support.servers.tcp_proxy import Cut, proxying

FIVE_DAYS = timedelta(days=5)
NOW = timedelta(0)


class WatchedEndpoints:
    """Endpoints that have been failing, as rows of the table."""

    def __init__(self, database: Database, owner: asyncpg.Connection, tenant: UUID) -> None:
        self.database = database
        self.data = database.data(Mode.TEST)
        self.owner = owner
        self.tenant = tenant

    async def failing(self, since: timedelta, last_failure: timedelta | None = None) -> UUID:
        """Both times as how long ago; the last failure may be the first."""
        endpoint = await add_endpoint(self.database, self.tenant, "https://example.com/?token=secret")
        async with self.data.acquire() as tx, tx.transaction():
            note = HealthNote(endpoint, self.tenant, False, 3, "HTTP status 500")
            await endpoint_health.note_health(tx, [note])
        await self.fails_since(endpoint, since, last_failure)
        return endpoint

    async def fails_since(
        self, endpoint: UUID, since: timedelta, last_failure: timedelta | None = None
    ) -> None:
        await self.owner.execute(
            "UPDATE sandbox.endpoint_health SET failing_since = now() - $2::interval,"
            " last_failure_at = now() - $3::interval WHERE endpoint_id = $1",
            endpoint,
            since,
            since if last_failure is None else last_failure,
        )

    async def row(self, endpoint: UUID) -> dict[str, Any]:
        row = await self.data.fetchrow("SELECT * FROM endpoint_health WHERE endpoint_id = $1", endpoint)
        assert row is not None
        return dict(row)

    async def enabled(self, endpoint: UUID) -> bool:
        return (await endpoints.show(self.database.core, endpoint)).enabled

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Returns the events in order: (type, data)."""
        rows = await self.data.fetch(
            "SELECT type, data FROM events WHERE type LIKE 'webhook_endpoint%' ORDER BY seq"
        )
        return [(row["type"], orjson.loads(row["data"])) for row in rows]

    async def check(self) -> None:
        await HealthWatch(self.data).check(asyncio.Event())


@pytest.fixture
def watched(database: Database, owner: asyncpg.Connection, tenant: UUID) -> WatchedEndpoints:
    return WatchedEndpoints(database, owner, tenant)


# Warnings and their events


async def test_each_warning_is_recorded_once(watched: WatchedEndpoints) -> None:
    endpoint = await watched.failing(timedelta(hours=59))
    for hours in (59, 61, 62, 85, 86, 109, 110, 1000):
        await watched.fails_since(endpoint, timedelta(hours=hours))
        await watched.check()
        await watched.check()
    recorded = await watched.events()
    assert [(type_, data["percent"]) for type_, data in recorded] == [
        ("webhook_endpoint_failing", percent) for percent in (50, 70, 90)
    ]
    assert await watched.enabled(endpoint)


async def test_a_warning_has_the_documented_data_without_the_url(watched: WatchedEndpoints) -> None:
    endpoint = await watched.failing(timedelta(hours=70))
    since = (await watched.row(endpoint))["failing_since"]
    await watched.check()
    assert await watched.events() == [
        (
            "webhook_endpoint_failing",
            {
                "endpointId": format_id(ENDPOINT, endpoint),
                "failingSince": iso_millis(since),
                "consecutiveFailures": 3,
                "lastError": "HTTP status 500",
                "percent": 50,
                "disablesAt": iso_millis(since + FIVE_DAYS),
            },
        )
    ]


async def test_an_endpoint_is_disabled_with_its_event_in_one_transaction(
    watched: WatchedEndpoints, superuser: asyncpg.Connection
) -> None:
    endpoint = await watched.failing(FIVE_DAYS, last_failure=NOW)
    since = (await watched.row(endpoint))["failing_since"]
    await watched.check()
    await watched.check()
    assert await watched.events() == [
        (
            "webhook_endpoint_disabled",
            {
                "endpointId": format_id(ENDPOINT, endpoint),
                "failingSince": iso_millis(since),
                "consecutiveFailures": 3,
                "lastError": "HTTP status 500",
                "reason": "failing",
            },
        )
    ]
    shown = await endpoints.show(watched.database.core, endpoint)
    assert (shown.enabled, shown.disabled_reason) == (False, "No successful delivery for 5d.")
    row = await watched.row(endpoint)
    assert (row["failing_since"], row["warned"], row["open_until"]) == (None, 0, None)
    assert (
        await superuser.fetchval(
            "SELECT count(DISTINCT xid) FROM (SELECT xid::text FROM sandbox.events UNION ALL"
            " SELECT xmin::text FROM core.webhook_endpoints UNION ALL SELECT xmin::text FROM sandbox.endpoint_health) AS x (xid)"
        )
        == 1
    )


async def test_events_match_their_schemas(watched: WatchedEndpoints) -> None:
    for hours in (61, 85, 109):
        await watched.failing(timedelta(hours=hours))
    await watched.failing(FIVE_DAYS, last_failure=NOW)
    await watched.check()
    recorded = await watched.events()
    assert len(recorded) == 4
    for type_, data in recorded:
        assert_conforms(type_, data)


async def test_time_without_a_failure_disables_no_endpoint(watched: WatchedEndpoints) -> None:
    endpoint = await watched.failing(timedelta(days=30), last_failure=timedelta(days=25, seconds=1))
    await watched.check()
    assert await watched.enabled(endpoint)
    assert [data["percent"] for _, data in await watched.events()] == [90]


async def test_after_a_success_warnings_start_from_the_beginning(watched: WatchedEndpoints) -> None:
    endpoint = await watched.failing(timedelta(hours=70))
    await watched.check()
    async with watched.data.acquire() as tx, tx.transaction():
        await endpoint_health.note_health(
            tx, [HealthNote(endpoint, watched.tenant, True, 1, "HTTP status 500")]
        )
    await watched.check()
    await watched.fails_since(endpoint, timedelta(hours=70))
    await watched.check()
    assert [data["percent"] for _, data in await watched.events()] == [50, 50]


async def test_a_shorter_disable_after_warns_and_disables_sooner(watched: WatchedEndpoints) -> None:
    warned = await watched.failing(timedelta(minutes=6))
    disabled = await watched.failing(timedelta(minutes=10), last_failure=NOW)
    await HealthWatch(watched.data, timedelta(minutes=10)).check(asyncio.Event())
    assert [(type_, data["endpointId"]) for type_, data in await watched.events()] == [
        ("webhook_endpoint_disabled", format_id(ENDPOINT, disabled)),
        ("webhook_endpoint_failing", format_id(ENDPOINT, warned)),
    ]


@pytest.mark.parametrize("column", ["paused = true", "enabled = false, disabled_reason = 'moving'"])
async def test_paused_and_disabled_endpoints_get_no_warnings(
    watched: WatchedEndpoints, superuser: asyncpg.Connection, column: str
) -> None:
    endpoint = await watched.failing(FIVE_DAYS, last_failure=NOW)
    await superuser.execute(f"UPDATE core.webhook_endpoints SET {column}")
    await watched.check()
    assert await watched.events() == []
    assert (await watched.row(endpoint))["failing_since"] is not None, "earlier failures stay"


async def test_every_page_is_checked(watched: WatchedEndpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if many endpoints began to fail at the same time."""
    monkeypatch.setattr(health_watch, "PAGE", 3)
    failing = [await watched.failing(timedelta(hours=100)) for _ in range(8)]
    await watched.owner.execute(
        "UPDATE sandbox.endpoint_health SET failing_since = now() - interval '80 hours'"
    )
    await watched.check()
    recorded = [data["endpointId"] for _, data in await watched.events()]
    assert sorted(recorded) == sorted(format_id(ENDPOINT, endpoint) for endpoint in failing)


# Several workers, and workers that die


async def test_workers_that_check_together_record_each_event_once(
    watched: WatchedEndpoints, db_url: str, key: bytes
) -> None:
    for n in range(12):
        await watched.failing(FIVE_DAYS if n % 2 else timedelta(hours=70), last_failure=NOW)
    async with Database.open(db_url, key) as other:
        elsewhere = HealthWatch(other.data(Mode.TEST))
        await asyncio.gather(watched.check(), elsewhere.check(asyncio.Event()), watched.check())
    recorded = [(data["endpointId"], type_) for type_, data in await watched.events()]
    assert len(recorded) == len(set(recorded)) == 12


@pytest.mark.parametrize("step", [Step.WARN_70, Step.DISABLE])
async def test_a_decision_that_is_out_of_date_changes_nothing(watched: WatchedEndpoints, step: Step) -> None:
    """A success was recorded after the check."""
    endpoint = await watched.failing(FIVE_DAYS, last_failure=NOW)
    (found,) = await endpoint_health.failing(watched.data, timedelta(hours=1), None, 10)
    async with watched.data.acquire() as tx, tx.transaction():
        await endpoint_health.note_health(tx, [HealthNote(endpoint, watched.tenant, True, 0, None)])
    await HealthWatch(watched.data)._act(found, step)
    assert await watched.enabled(endpoint)
    assert await watched.events() == []


@pytest.mark.parametrize("age", [timedelta(hours=70), FIVE_DAYS], ids=["warned", "disabled"])
@pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])
async def test_a_worker_cut_off_at_its_commit_records_one_event(
    watched: WatchedEndpoints, db_url: str, key: bytes, age: timedelta, where: Cut
) -> None:
    endpoint = await watched.failing(age, last_failure=NOW)
    async with proxying(db_url) as proxy, Database.open(proxy.url(db_url), key) as far:
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises((OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
            await HealthWatch(far.data(Mode.TEST)).check(asyncio.Event())
        assert proxy.was_cut.is_set()
        recorded = len(await watched.events())
        assert recorded == (0 if where is Cut.BEFORE else 1)
        assert await watched.enabled(endpoint) == (recorded == 0 or age < FIVE_DAYS)
        async with running(HealthWatch(far.data(Mode.TEST), check_every_s=0.01)):
            await until(watched.owner, "SELECT count(*) = 1 FROM sandbox.events")
    await watched.check()
    assert len(await watched.events()) == 1


# One endpoint that fails to be checked, and the others


async def held(connect: Connect, statement: str) -> asyncpg.Connection:
    holder = await connect(SUPERUSER)
    await holder.execute("BEGIN")
    await holder.execute(statement)
    return holder


@pytest.mark.parametrize(
    "table", ["core.webhook_endpoints WHERE id", "sandbox.endpoint_health WHERE endpoint_id"]
)
async def test_a_locked_endpoint_stops_no_other_and_is_warned_later(
    watched: WatchedEndpoints, connect: Connect, table: str
) -> None:
    first, second = [await watched.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    holder = await held(connect, f"SELECT FROM {table} = '{first}' FOR UPDATE")
    part = PartFailures("health watch test")
    enter_part(part)
    await watched.check()
    assert part.total == 1
    assert part.reasons(0) == [], "a locked endpoint leaves the worker ready"
    assert [data["endpointId"] for _, data in await watched.events()] == [format_id(ENDPOINT, second)]
    await holder.execute("COMMIT")
    await watched.check()
    assert not part.any
    assert [data["endpointId"] for _, data in await watched.events()][1:] == [format_id(ENDPOINT, first)]


async def test_an_endpoint_whose_data_fails_stops_no_other(
    watched: WatchedEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await watched.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    disable = endpoint_health.disable_failing

    async def defective(tx: Any, found: FailingEndpoint, reason: str) -> Any:
        if found.endpoint_id == first:
            raise ValueError("a defect")
        return await disable(tx, found, reason)

    monkeypatch.setattr(endpoint_health, "disable_failing", defective)
    await watched.check()
    assert [data["endpointId"] for _, data in await watched.events()] == [format_id(ENDPOINT, second)]
    assert await watched.enabled(first)


async def test_a_watch_that_fails_for_every_endpoint_is_failing(
    watched: WatchedEndpoints, superuser: asyncpg.Connection
) -> None:
    """It is not failing if it succeeds for one endpoint."""
    part = PartFailures("health watch test")
    enter_part(part)
    first, second = [await watched.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    await superuser.execute(
        "CREATE FUNCTION sandbox.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE unique_violation; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON sandbox.events FOR EACH ROW EXECUTE FUNCTION sandbox.refuse()"
    )
    await watched.check()
    (reason,) = part.reasons(0)
    assert reason.startswith("health watch test: warn about or disable an endpoint has been failing since ")
    assert (
        f": endpoint {format_id(ENDPOINT, first)}: the database refused the data (UniqueViolationError, SQLSTATE 23505)"
        in reason
    )
    assert await watched.events() == []
    await superuser.execute(
        "DROP TRIGGER refuse ON sandbox.events;"
        "CREATE TRIGGER refuse BEFORE INSERT ON sandbox.events FOR EACH ROW"
        f" WHEN (NEW.data::text LIKE '%{format_id(ENDPOINT, first)}%') EXECUTE FUNCTION sandbox.refuse()"
    )
    await watched.check()
    assert [data["endpointId"] for _, data in await watched.events()] == [format_id(ENDPOINT, second)]
    assert part.any
    assert part.reasons(0) == []
    await superuser.execute("DROP TRIGGER refuse ON sandbox.events")
    await watched.check()
    assert not part.any


async def test_a_stop_ends_a_check_between_two_endpoints(watched: WatchedEndpoints) -> None:
    await watched.failing(FIVE_DAYS, last_failure=NOW)
    stop = asyncio.Event()
    stop.set()
    await HealthWatch(watched.data).check(stop)
    assert await watched.events() == []


async def test_its_lifecycle_is_that_of_every_part(watched: WatchedEndpoints) -> None:
    for hours in (1, 70, 200):
        await watched.failing(timedelta(hours=hours), last_failure=NOW)
    await stress_lifecycle(HealthWatch(watched.data, check_every_s=0.001))
    await watched.check()
    assert sorted(type_ for type_, _ in await watched.events()) == [
        "webhook_endpoint_disabled",
        "webhook_endpoint_failing",
    ]


async def test_a_check_uses_the_index(connect: Connect, watched: WatchedEndpoints) -> None:
    """It reads nothing of ten thousand healthy endpoints."""
    await watched.failing(FIVE_DAYS)
    await watched.owner.execute(
        "INSERT INTO sandbox.endpoint_health (endpoint_id, tenant_id)"
        f" SELECT gen_random_uuid(), '{watched.tenant}' FROM generate_series(1, 10000)"
    )
    async with watched.data.acquire() as connection:
        plan = await explain(
            connection, load("endpoint_health")["failing"], timedelta(hours=60), None, UUID(int=0), 500
        )
    assert "endpoint_health_failing" in plan.indexes
    assert plan.full_scans() == set()
    assert plan.rows_read <= 4
