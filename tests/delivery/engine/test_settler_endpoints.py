"""Results change endpoints: a 410 disables them, and their health is updated with the results."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from delivery.engine import settler
from schema.connections.database import Connection, Database
from schema.core import endpoints
from schema.core.endpoints import EndpointChanges
from schema.deliveries import deliveries
from schema.failures import PartFailures, enter_part
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from tests.support.engine import Engine, engine
from tests.support.event_schemas import assert_conforms
from tests.support.servers.tcp_proxy import Cut, TcpProxy
from tests.support.settler_results import delivered, failed, gone, settle, some_claims, without_slots


async def test_a_410_disables_the_endpoint_and_records_one_event(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    """In one transaction, however many deliveries get a 410 in one batch or several."""
    claims = await some_claims(ours, tenant, endpoint, 4)
    await settle(ours, *(gone(claimed) for claimed in claims[:3]))
    await settle(ours, gone(claims[3]))
    shown = await superuser.fetchrow(
        "SELECT enabled, disabled_reason, xmin::text AS xid FROM core.webhook_endpoints WHERE id = $1",
        endpoint,
    )
    assert shown is not None
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "The receiver answered 410 Gone.")
    assert await disabled_events(superuser) == [(format_id(ENDPOINT, endpoint), "gone", tenant, shown["xid"])]


async def disabled_events(superuser: asyncpg.Connection) -> list[tuple[object, ...]]:
    rows = await superuser.fetch(
        "SELECT data->>'endpointId', data->>'reason', tenant_id, xid::text FROM sandbox.events"
        " WHERE type = 'webhook_endpoint_disabled'"
    )
    return [tuple(row) for row in rows]


async def test_the_event_of_a_410_matches_its_schema(ours: Engine, tenant: UUID, endpoint: UUID) -> None:
    await settle(ours, *map(gone, await some_claims(ours, tenant, endpoint, 1)))
    data = await ours.pool.fetchval("SELECT data FROM events WHERE type = 'webhook_endpoint_disabled'")
    assert_conforms("webhook_endpoint_disabled", orjson.loads(data))


async def test_a_410_from_a_former_url_disables_nothing(
    database: Database, ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    (claimed,) = await some_claims(ours, tenant, endpoint, 1)
    await endpoints.update(
        database.core, endpoint, EndpointChanges("https://example.com/new", None, None, None)
    )
    await settle(ours, gone(claimed))
    assert (await endpoints.show(database.core, endpoint)).enabled
    assert await disabled_events(superuser) == []


async def test_a_410_from_a_former_url_leaves_the_breaker_open(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    *hung, last = await some_claims(ours, tenant, endpoint, 6)
    await settle(ours, *(failed(claimed) for claimed in hung))
    assert ours.settler._health.open(endpoint)
    await endpoints.update(
        database.core, endpoint, EndpointChanges("https://example.com/new", None, None, None)
    )
    await settle(ours, gone(last))
    assert ours.settler._health.open(endpoint)


async def test_a_410_under_a_lost_lease_disables_nothing(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    (old,) = await some_claims(ours, tenant, endpoint, 1)
    await deliveries.take_over(ours.pool, [1])
    await settle(ours, gone(old))
    assert (await endpoints.show(database.core, endpoint)).enabled


async def test_a_locked_endpoint_delays_results_only_briefly(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    """However many 410s it answered: an operator's open transaction must not stop the settler."""
    claims = await some_claims(ours, tenant, endpoint, 6)
    async with superuser.transaction():
        await superuser.execute("SELECT FROM core.webhook_endpoints WHERE id = $1 FOR UPDATE", endpoint)
        async with asyncio.timeout(5):
            await settle(ours, *(gone(claimed) for claimed in claims))
    assert [row["status"] for row in await ours.rows()] == ["failed"] * 6
    assert await disabled_events(superuser) == [], "it is done later"


async def test_a_410_that_cannot_disable_is_reported_until_it_can(
    ours: Engine,
    superuser: asyncpg.Connection,
    tenant: UUID,
    endpoint: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settler, "DISABLE_RETRY_S", 0.0)
    part = PartFailures("settler test")
    enter_part(part)
    await superuser.execute(
        "CREATE FUNCTION core.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'refused'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON core.webhook_endpoints FOR EACH ROW EXECUTE FUNCTION core.refuse()"
    )
    first, second = await some_claims(ours, tenant, endpoint, 2)
    await settle(ours, gone(first))
    assert (part.total, part.any) == (1, True)
    assert part.reasons(0) == [], "results are still written"
    assert ours.settler.settled == 1
    await superuser.execute("DROP TRIGGER refuse ON core.webhook_endpoints")
    await settle(ours, gone(second))
    assert not part.any


async def test_a_410_at_two_workers_records_one_event(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    async with engine(database, worker_id=lambda: 2) as other:
        without_slots(other)
        here = await some_claims(ours, tenant, endpoint, 1)
        there = await some_claims(other, tenant, endpoint, 1, worker=2)
        await asyncio.gather(settle(ours, gone(*here)), settle(other, gone(*there)))
    count = await database.data(Mode.TEST).fetchval(
        "SELECT count(*) FROM events WHERE type = 'webhook_endpoint_disabled'"
    )
    assert count == 1


# Health


async def test_health_counts_failures_since_the_last_success(
    ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    async def health() -> tuple[int, bool, str | None]:
        row = await ours.pool.fetchrow("SELECT * FROM endpoint_health WHERE endpoint_id = $1", endpoint)
        assert row is not None
        return row["consecutive_failures"], row["failing_since"] is not None, row["last_error"]

    claims = await some_claims(ours, tenant, endpoint, 4)
    await settle(ours, delivered(claims[0]))
    assert await health() == (0, False, None)
    await settle(ours, failed(claims[1]), failed(claims[2]))
    assert await health() == (2, True, "timeout")
    await settle(ours, delivered(claims[3]))
    assert await health() == (0, False, None)


async def test_a_success_ends_a_failure_that_another_worker_recorded(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    """Although a success was recorded here just before: otherwise a single failure would disable the endpoint in the end."""
    async with engine(database, worker_id=lambda: 2) as other:
        without_slots(other)
        await settle(ours, delivered(*await some_claims(ours, tenant, endpoint, 1)))
        await settle(other, failed(*await some_claims(other, tenant, endpoint, 1, worker=2)))
        await settle(ours, delivered(*await some_claims(ours, tenant, endpoint, 1)))
    row = await ours.pool.fetchrow("SELECT failing_since, consecutive_failures FROM endpoint_health")
    assert row is not None
    assert tuple(row) == (None, 0)


@pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])
async def test_an_uncertain_commit_counts_failures_once_and_disables_at_410(
    far: Engine,
    ours: Engine,
    superuser: asyncpg.Connection,
    proxy: TcpProxy,
    tenant: UUID,
    endpoint: UUID,
    where: Cut,
) -> None:
    claims = await some_claims(far, tenant, endpoint, 6)
    proxy.cut_at(b"COMMIT", where)
    await settle(far, *(failed(claimed) for claimed in claims[:5]))
    assert proxy.was_cut.is_set()
    row = await ours.pool.fetchrow("SELECT * FROM endpoint_health WHERE endpoint_id = $1", endpoint)
    assert row is not None
    assert (row["consecutive_failures"], row["openings"]) == (5, 1), "five that hung trip the breaker"
    proxy.was_cut.clear()
    proxy.cut_at(b"COMMIT", where)
    await settle(far, gone(claims[5]))
    assert proxy.was_cut.is_set()
    assert len(await disabled_events(superuser)) == 1
    assert (far.settler.settled, far.settler.fenced_off) == (6, 0)


async def test_breaker_changes_are_written_with_their_results(
    ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    """Later failures of the same batch change nothing."""

    async def breaker() -> tuple[bool | None, int]:
        row = await ours.pool.fetchrow(
            "SELECT open_until > now() AS open, openings FROM endpoint_health WHERE endpoint_id = $1",
            endpoint,
        )
        assert row is not None
        return row["open"], row["openings"]

    tripping = await some_claims(ours, tenant, endpoint, 5)
    await settle(ours, *(failed(claimed) for claimed in tripping[:4]))
    assert await breaker() == (None, 0)
    claims = await some_claims(ours, tenant, endpoint, 9)
    await settle(ours, failed(tripping[4]))
    assert await breaker() == (True, 1)
    await settle(ours, failed(claims[3]), delivered(claims[4]))
    assert await breaker() == (True, 1), "both were under way when it opened"
    health = ours.settler._health
    health.adopt(endpoint, 1, health.monotonic())
    await settle(ours, *(delivered(claimed, total_ms=0.0) for claimed in claims[5:7]))
    assert await breaker() == (True, 1)
    await settle(ours, delivered(claims[7], total_ms=0.0))
    assert await breaker() == (None, 0)


async def test_a_slow_transaction_does_not_shorten_an_opening(
    ours: Engine, tenant: UUID, endpoint: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker is open in the database for at least as long as here."""
    write = deliveries.settle

    async def write_slowly(tx: Connection, *arguments: Any, **options: Any) -> set[UUID]:
        settled = await write(tx, *arguments, **options)
        await tx.execute("SELECT pg_sleep(0.3)")
        return settled

    monkeypatch.setattr(deliveries, "settle", write_slowly)
    await settle(ours, *map(failed, await some_claims(ours, tenant, endpoint, 5)))
    left = await ours.pool.fetchval(
        "SELECT extract(epoch FROM open_until - clock_timestamp())::float8 FROM endpoint_health"
    )
    health = ours.settler._health
    assert left >= health._known[endpoint].breaker.probing_from - health.monotonic()
