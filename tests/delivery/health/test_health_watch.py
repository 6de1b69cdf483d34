"""Endpoints that fail for long are told of, once each, and disabled with evidence, whoever looks and whatever dies."""

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


class Place:
    """Endpoints that have been failing, as the table has them."""

    def __init__(self, database: Database, owner: asyncpg.Connection, tenant: UUID) -> None:
        self.database = database
        self.data = database.data(Mode.TEST)
        self.owner = owner
        self.tenant = tenant

    async def failing(self, since: timedelta, last_failure: timedelta | None = None) -> UUID:
        """Both as how long ago; the last failure may be the first."""
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

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Events in the order of their writing: (type, data)."""
        rows = await self.data.fetch(
            "SELECT type, data FROM events WHERE type LIKE 'webhook_endpoint%' ORDER BY seq"
        )
        return [(row["type"], orjson.loads(row["data"])) for row in rows]

    async def look(self) -> None:
        await HealthWatch(self.data).look(asyncio.Event())


@pytest.fixture
def place(database: Database, owner: asyncpg.Connection, tenant: UUID) -> Place:
    return Place(database, owner, tenant)


# What is told


async def test_each_warning_is_told_once_as_time_goes_by(place: Place) -> None:
    endpoint = await place.failing(timedelta(hours=59))
    for hours in (59, 61, 62, 85, 86, 109, 110, 1000):
        await place.fails_since(endpoint, timedelta(hours=hours))
        await place.look()
        await place.look()
    told = await place.told()
    assert [(type_, data["percent"]) for type_, data in told] == [
        ("webhook_endpoint_failing", percent) for percent in (50, 70, 90)
    ]
    assert await place.enabled(endpoint)


async def test_a_warning_tells_what_the_merchant_needs_and_not_the_url(place: Place) -> None:
    endpoint = await place.failing(timedelta(hours=70))
    since = (await place.row(endpoint))["failing_since"]
    await place.look()
    assert await place.told() == [
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


async def test_an_endpoint_that_fails_on_to_the_end_is_disabled_and_that_is_told_in_one_transaction(
    place: Place, superuser: asyncpg.Connection
) -> None:
    endpoint = await place.failing(FIVE_DAYS, last_failure=NOW)
    since = (await place.row(endpoint))["failing_since"]
    await place.look()
    await place.look()
    assert await place.told() == [
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
    shown = await endpoints.show(place.database.core, endpoint)
    assert (shown.enabled, shown.disabled_reason) == (False, "Nothing was delivered for 5d.")
    row = await place.row(endpoint)
    assert (row["failing_since"], row["warned"], row["open_until"]) == (None, 0, None)
    assert (
        await superuser.fetchval(
            "SELECT count(DISTINCT xid) FROM (SELECT xid::text FROM sandbox.events UNION ALL"
            " SELECT xmin::text FROM core.webhook_endpoints UNION ALL SELECT xmin::text FROM sandbox.endpoint_health) AS x (xid)"
        )
        == 1
    )


async def test_what_is_told_is_as_the_catalog_says(place: Place) -> None:
    for hours in (61, 85, 109):
        await place.failing(timedelta(hours=hours))
    await place.failing(FIVE_DAYS, last_failure=NOW)
    await place.look()
    told = await place.told()
    assert len(told) == 4
    for type_, data in told:
        assert_conforms(type_, data)


async def test_time_without_a_failure_disables_nobody(place: Place) -> None:
    endpoint = await place.failing(timedelta(days=30), last_failure=timedelta(days=25, seconds=1))
    await place.look()
    assert await place.enabled(endpoint)
    assert [data["percent"] for _, data in await place.told()] == [90]


async def test_after_a_success_the_warnings_begin_anew(place: Place) -> None:
    endpoint = await place.failing(timedelta(hours=70))
    await place.look()
    async with place.data.acquire() as tx, tx.transaction():
        await endpoint_health.note_health(
            tx, [HealthNote(endpoint, place.tenant, True, 1, "HTTP status 500")]
        )
    await place.look()
    await place.fails_since(endpoint, timedelta(hours=70))
    await place.look()
    assert [data["percent"] for _, data in await place.told()] == [50, 50]


async def test_a_shorter_patience_warns_and_disables_sooner(place: Place) -> None:
    warned = await place.failing(timedelta(minutes=6))
    disabled = await place.failing(timedelta(minutes=10), last_failure=NOW)
    await HealthWatch(place.data, timedelta(minutes=10)).look(asyncio.Event())
    assert [(type_, data["endpointId"]) for type_, data in await place.told()] == [
        ("webhook_endpoint_disabled", format_id(ENDPOINT, disabled)),
        ("webhook_endpoint_failing", format_id(ENDPOINT, warned)),
    ]


@pytest.mark.parametrize("column", ["paused = true", "enabled = false, disabled_reason = 'moving'"])
async def test_what_gets_no_deliveries_is_not_told_of(
    place: Place, superuser: asyncpg.Connection, column: str
) -> None:
    endpoint = await place.failing(FIVE_DAYS, last_failure=NOW)
    await superuser.execute(f"UPDATE core.webhook_endpoints SET {column}")
    await place.look()
    assert await place.told() == []
    assert (await place.row(endpoint))["failing_since"] is not None, "what it failed before stands"


async def test_every_page_is_looked_at(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many began to fail in the same moment, and the page before was done with."""
    monkeypatch.setattr(health_watch, "PAGE", 3)
    failing = [await place.failing(timedelta(hours=100)) for _ in range(8)]
    await place.owner.execute(
        "UPDATE sandbox.endpoint_health SET failing_since = now() - interval '80 hours'"
    )
    await place.look()
    told = [data["endpointId"] for _, data in await place.told()]
    assert sorted(told) == sorted(format_id(ENDPOINT, endpoint) for endpoint in failing)


# Several workers, and their deaths


async def test_two_workers_that_look_at_once_tell_once(place: Place, db_url: str, key: bytes) -> None:
    for n in range(12):
        await place.failing(FIVE_DAYS if n % 2 else timedelta(hours=70), last_failure=NOW)
    async with Database.open(db_url, key) as other:
        elsewhere = HealthWatch(other.data(Mode.TEST))
        await asyncio.gather(place.look(), elsewhere.look(asyncio.Event()), place.look())
    told = [(data["endpointId"], type_) for type_, data in await place.told()]
    assert len(told) == len(set(told)) == 12


@pytest.mark.parametrize("step", [Step.WARN_70, Step.DISABLE])
async def test_what_was_decided_on_a_look_that_is_outdated_changes_nothing(place: Place, step: Step) -> None:
    """A success came in between: it does not fail any more."""
    endpoint = await place.failing(FIVE_DAYS, last_failure=NOW)
    (found,) = await endpoint_health.failing(place.data, timedelta(hours=1), None, 10)
    async with place.data.acquire() as tx, tx.transaction():
        await endpoint_health.note_health(tx, [HealthNote(endpoint, place.tenant, True, 0, None)])
    await HealthWatch(place.data)._act(found, step)
    assert await place.enabled(endpoint)
    assert await place.told() == []


@pytest.mark.parametrize("age", [timedelta(hours=70), FIVE_DAYS], ids=["warned", "disabled"])
@pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])
async def test_a_worker_cut_off_at_its_commit_leaves_it_told_once_or_to_be_told(
    place: Place, db_url: str, key: bytes, age: timedelta, where: Cut
) -> None:
    endpoint = await place.failing(age, last_failure=NOW)
    async with proxying(db_url) as proxy, Database.open(proxy.url(db_url), key) as far:
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises((OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
            await HealthWatch(far.data(Mode.TEST)).look(asyncio.Event())
        assert proxy.was_cut.is_set()
        told = len(await place.told())
        assert told == (0 if where is Cut.BEFORE else 1)
        assert await place.enabled(endpoint) == (told == 0 or age < FIVE_DAYS)
        async with running(HealthWatch(far.data(Mode.TEST), look_every_s=0.01)):
            await until(place.owner, "SELECT count(*) = 1 FROM sandbox.events")
    await place.look()
    assert len(await place.told()) == 1


# One in trouble, and the others


async def held(connect: Connect, statement: str) -> asyncpg.Connection:
    holder = await connect(SUPERUSER)
    await holder.execute("BEGIN")
    await holder.execute(statement)
    return holder


@pytest.mark.parametrize(
    "table", ["core.webhook_endpoints WHERE id", "sandbox.endpoint_health WHERE endpoint_id"]
)
async def test_an_endpoint_that_somebody_holds_stops_no_other_and_is_told_of_later(
    place: Place, connect: Connect, table: str
) -> None:
    first, second = [await place.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    holder = await held(connect, f"SELECT FROM {table} = '{first}' FOR UPDATE")
    part = PartFailures("health watch test")
    enter_part(part)
    await place.look()
    assert part.total == 1
    assert part.reasons(0) == [], "a worker does its work although somebody holds an endpoint"
    assert [data["endpointId"] for _, data in await place.told()] == [format_id(ENDPOINT, second)]
    await holder.execute("COMMIT")
    await place.look()
    assert not part.any
    assert [data["endpointId"] for _, data in await place.told()][1:] == [format_id(ENDPOINT, first)]


async def test_an_endpoint_that_cannot_be_told_of_stops_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await place.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    tell = endpoint_health.disable_failing

    async def defective(tx: Any, found: FailingEndpoint, reason: str) -> Any:
        if found.endpoint_id == first:
            raise ValueError("a defect")
        return await tell(tx, found, reason)

    monkeypatch.setattr(endpoint_health, "disable_failing", defective)
    await place.look()
    assert [data["endpointId"] for _, data in await place.told()] == [format_id(ENDPOINT, second)]
    assert await place.enabled(first)


async def test_a_watch_that_can_tell_of_no_endpoint_fails_until_it_can(
    place: Place, superuser: asyncpg.Connection
) -> None:
    """Not for what it can tell of one and not of another."""
    part = PartFailures("health watch test")
    enter_part(part)
    first, second = [await place.failing(days * FIVE_DAYS, last_failure=NOW) for days in (3, 2)]
    await superuser.execute(
        "CREATE FUNCTION sandbox.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE unique_violation; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON sandbox.events FOR EACH ROW EXECUTE FUNCTION sandbox.refuse()"
    )
    await place.look()
    (reason,) = part.reasons(0)
    assert reason.startswith(
        "health watch test: warn about an endpoint, or disable it has been failing since "
    )
    assert (
        f": endpoint {format_id(ENDPOINT, first)}: the database refused the data (UniqueViolationError, SQLSTATE 23505)"
        in reason
    )
    assert await place.told() == []
    await superuser.execute(
        "DROP TRIGGER refuse ON sandbox.events;"
        "CREATE TRIGGER refuse BEFORE INSERT ON sandbox.events FOR EACH ROW"
        f" WHEN (NEW.data::text LIKE '%{format_id(ENDPOINT, first)}%') EXECUTE FUNCTION sandbox.refuse()"
    )
    await place.look()
    assert [data["endpointId"] for _, data in await place.told()] == [format_id(ENDPOINT, second)]
    assert part.any
    assert part.reasons(0) == []
    await superuser.execute("DROP TRIGGER refuse ON sandbox.events")
    await place.look()
    assert not part.any


async def test_a_stop_is_heeded_between_two_endpoints(place: Place) -> None:
    await place.failing(FIVE_DAYS, last_failure=NOW)
    stop = asyncio.Event()
    stop.set()
    await HealthWatch(place.data).look(stop)
    assert await place.told() == []


async def test_it_runs_as_every_long_lived_thing_does(place: Place) -> None:
    for hours in (1, 70, 200):
        await place.failing(timedelta(hours=hours), last_failure=NOW)
    await stress_lifecycle(HealthWatch(place.data, look_every_s=0.001))
    await place.look()
    assert sorted(type_ for type_, _ in await place.told()) == [
        "webhook_endpoint_disabled",
        "webhook_endpoint_failing",
    ]


async def test_a_look_goes_by_index(connect: Connect, place: Place) -> None:
    """Of ten thousand endpoints that do not fail nothing is read."""
    await place.failing(FIVE_DAYS)
    await place.owner.execute(
        "INSERT INTO sandbox.endpoint_health (endpoint_id, tenant_id)"
        f" SELECT gen_random_uuid(), '{place.tenant}' FROM generate_series(1, 10000)"
    )
    async with place.data.acquire() as connection:
        plan = await explain(
            connection, load("endpoint_health")["failing"], timedelta(hours=60), None, UUID(int=0), 500
        )
    assert "endpoint_health_failing" in plan.indexes
    assert plan.full_scans() == set()
    assert plan.rows_read <= 4
