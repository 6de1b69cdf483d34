"""Results are written once, in batches, fenced by their leases, whatever the database does meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from delivery.settler import Settled
from schema import deliveries, endpoints
from schema.database import Database
from schema.deliveries import Attempt, ClaimedDelivery, Settlement, Verdict
from schema.endpoints import EndpointChanges
from schema.ids import ENDPOINT, format_id, new_id
from schema.modes import Mode
from tests.support.engine import Engine, add_endpoint, engine, running
from tests.support.events import record_many
from tests.support.tcp_proxy import Cut, TcpProxy, proxying


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> UUID:
    return await add_endpoint(database, tenant, "https://example.com/")


@pytest.fixture
async def ours(database: Database) -> AsyncIterator[Engine]:
    async with engine(database) as ours:
        yield without_places(ours)


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Engine]:
    """An engine that reaches the database through the proxy."""
    async with (
        Database.open(proxy.url(db_url), key) as database,
        engine(database, last_tries_s=0.2) as far,
    ):
        yield without_places(far)


def without_places(engine: Engine) -> Engine:
    """The settler alone: what is settled here never took a place in the dispatcher."""
    engine.settler.on_settled = engine.settled.add
    return engine


async def some_claims(
    engine: Engine, tenant: UUID, endpoint: UUID, count: int, worker: int = 1
) -> list[ClaimedDelivery]:
    """That many new deliveries, leased."""
    await record_many(engine.pool, tenant, count)
    await engine.leave_waiting()
    return await claim(engine, endpoint, count, worker)


async def claim(engine: Engine, endpoint: UUID, count: int, worker: int = 1) -> list[ClaimedDelivery]:
    async with engine.pool.acquire() as tx, tx.transaction():
        claims = await deliveries.claim(tx, [(endpoint, count)], deliveries.new_lease(), worker)
    assert len(claims) == count
    return claims


def attempt(outcome: str = "ok", **details: Any) -> Attempt:
    made: dict[str, Any] = {
        "id": new_id(),
        "started_at": datetime.now(UTC),
        "outcome": outcome,
        "status_code": 200 if outcome == "ok" else None,
        "error": None,
        "response_body": b"thanks",
        "address": "192.0.2.1",
        "dns_ms": None,
        "connect_ms": 1.5,
        "tls_ms": 2.5,
        "first_byte_ms": 3.5,
        "total_ms": 8.0,
    }
    return Attempt(**{**made, **details})


def delivered(claim: ClaimedDelivery, **details: Any) -> Settled:
    return Settled(Settlement(claim, Verdict.DELIVERED, attempt=attempt(**details)))


def failed(claim: ClaimedDelivery) -> Settled:
    return Settled(Settlement(claim, Verdict.FAILED, attempt=attempt("timeout")))


def gone(claim: ClaimedDelivery) -> Settled:
    answer = attempt("http_status", status_code=410, error="answered 410")
    return Settled(Settlement(claim, Verdict.FAILED, attempt=answer), disable_endpoint=True)


async def settle(engine: Engine, *results: Settled) -> None:
    before = len(engine.settled)
    async with running(engine.settler):
        for result in results:
            engine.settler.put(result)
        await engine.settled.count(before + len(results))


# Batches and fences


async def test_what_has_gathered_is_written_in_batches_of_bounded_size(
    ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    for claimed in await some_claims(ours, tenant, endpoint, 700):
        ours.settler.put(delivered(claimed))
    async with running(ours.settler):
        await ours.settled.count(700)
    rows = await ours.rows()
    assert [row["status"] for row in rows] == ["delivered"] * 700
    assert sorted(Counter(row["settled_at"] for row in rows).values()) == [200, 500], (
        "one moment a transaction"
    )
    assert (ours.settler.settled, ours.settler.fenced_off) == (700, 0)


async def test_a_result_is_stored_as_it_was(ours: Engine, tenant: UUID, endpoint: UUID) -> None:
    (claimed,) = await some_claims(ours, tenant, endpoint, 1)
    result = delivered(claimed, dns_ms=0.5)
    await settle(ours, result)
    (row,) = await ours.rows()
    assert (row["status"], row["attempts"], row["tries"], row["lease"]) == ("delivered", 1, 1, None)
    (stored,) = await ours.attempts()
    assert stored["settled"]
    assert stored["created_at"] == claimed.created_at
    kept = result.settlement.attempt
    assert kept is not None
    for name in Attempt.__slots__:
        assert stored[name] == getattr(kept, name)


@pytest.mark.parametrize("late_comes", ["first", "last", "in the same batch"])
async def test_a_late_worker_s_result_does_not_overwrite_a_newer_one(
    ours: Engine, tenant: UUID, endpoint: UUID, late_comes: str
) -> None:
    """Both attempts are history; the delivery's state is that of the lease it has."""
    (old,) = await some_claims(ours, tenant, endpoint, 1)
    assert await deliveries.take_over(ours.pool, [1]) == 1
    (new,) = await claim(ours, endpoint, 1, worker=2)
    if late_comes == "in the same batch":
        await settle(ours, failed(old), delivered(new))
    elif late_comes == "first":
        await settle(ours, failed(old))
        assert await ours.leased() == 1, "the newer attempt is still under way"
        await settle(ours, delivered(new))
    else:
        await settle(ours, delivered(new))
        await settle(ours, failed(old))
    (row,) = await ours.rows()
    assert (row["status"], row["attempts"]) == ("delivered", 1)
    assert {a["outcome"]: a["settled"] for a in await ours.attempts()} == {"ok": True, "timeout": False}
    assert (ours.settler.settled, ours.settler.fenced_off) == (1, 1)


# What Postgres does not take


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"error": "a\x00b"}, id="a zero byte"),
        pytest.param({"error": "a\ud800b"}, id="half a character"),
        pytest.param({"response_body": b"x" * 4097}, id="more of a body than is kept"),
    ],
)
async def test_a_result_that_cannot_be_stored_is_isolated_and_settled_without_its_details(
    ours: Engine, tenant: UUID, endpoint: UUID, poison: dict[str, Any]
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 9)
    results = [delivered(claimed) for claimed in claims]
    results[4] = delivered(claims[4], **poison)
    await settle(ours, *results)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 9
    stored = {attempt["delivery_id"]: attempt for attempt in await ours.attempts()}
    assert len(stored) == 9
    bare = stored.pop(claims[4].id)
    assert (bare["error"], bare["response_body"]) == ("ok; the details could not be stored", b"")
    assert {attempt["response_body"] for attempt in stored.values()} == {b"thanks"}


# Outages


async def test_results_of_an_outage_are_written_once_when_it_is_over(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(far, tenant, endpoint, 20)
    async with running(far.settler):
        proxy.go_down()
        for claimed in claims:
            far.settler.put(delivered(claimed))
        await proxy.turned_away.wait()
        assert len(far.settled) == 0, "what is not written keeps its place"
        proxy.come_back()
        await far.settled.count(20)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 20
    assert len(await ours.attempts()) == 20
    assert (far.settler.settled, far.settler.fenced_off) == (20, 0)


async def test_sessions_ended_by_the_server_cost_nothing(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 60)
    async with running(ours.settler):
        for n, claimed in enumerate(claims):
            ours.settler.put(delivered(claimed))
            if n % 20 == 0:
                await superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'duro_sandbox'"
                    " AND datname = current_database()"
                )
        await ours.settled.count(60)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 60
    assert len(await ours.attempts()) == 60


@pytest.mark.parametrize("where", Cut)
async def test_a_commit_of_unknown_fate_is_repeated_and_written_once(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID, where: Cut
) -> None:
    claims = await some_claims(far, tenant, endpoint, 5)
    proxy.cut_at(b"COMMIT", where)
    await settle(far, *(delivered(claimed) for claimed in claims))
    assert proxy.was_cut.is_set()
    assert [(row["status"], row["attempts"]) for row in await ours.rows()] == [("delivered", 1)] * 5
    assert [attempt["settled"] for attempt in await ours.attempts()] == [True] * 5


async def test_a_stop_during_an_outage_tries_a_little_longer_and_then_gives_up(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    """What is given up stays leased, for others to take over: at worst it is repeated."""
    claims = await some_claims(far, tenant, endpoint, 3)
    proxy.go_down()
    async with running(far.settler):
        for claimed in claims:
            far.settler.put(delivered(claimed))
        await proxy.turned_away.wait()
    assert await ours.leased() == 3
    assert await ours.attempts() == []


async def test_a_stop_shortly_before_the_end_of_an_outage_loses_nothing(
    far: Engine, ours: Engine, proxy: TcpProxy, tenant: UUID, endpoint: UUID
) -> None:
    far.settler._last_tries_s = 10
    claims = await some_claims(far, tenant, endpoint, 3)
    stop = asyncio.Event()
    proxy.go_down()
    for claimed in claims:
        far.settler.put(delivered(claimed))
    stopping = asyncio.create_task(far.settler.run(stop))
    await proxy.turned_away.wait()
    stop.set()
    proxy.turned_away.clear()
    await proxy.turned_away.wait()
    proxy.come_back()
    await asyncio.wait_for(stopping, 10)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 3


# 410


async def test_410_disables_the_endpoint_and_tells_so_once_in_one_transaction(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    """However many deliveries got that answer, in one batch or several."""
    claims = await some_claims(ours, tenant, endpoint, 4)
    await settle(ours, *(gone(claimed) for claimed in claims[:3]))
    await settle(ours, gone(claims[3]))
    shown = await superuser.fetchrow(
        "SELECT enabled, disabled_reason, xmin::text AS xid FROM core.webhook_endpoints WHERE id = $1",
        endpoint,
    )
    assert shown is not None
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "The receiver answered 410 Gone.")
    assert await told_disabled(superuser) == [(format_id(ENDPOINT, endpoint), "gone", tenant, shown["xid"])]


async def told_disabled(superuser: asyncpg.Connection) -> list[tuple[object, ...]]:
    rows = await superuser.fetch(
        "SELECT data->>'endpointId', data->>'reason', tenant_id, xid::text FROM sandbox.events"
        " WHERE type = 'webhook_endpoint_disabled'"
    )
    return [tuple(row) for row in rows]


async def test_410_from_a_url_that_the_endpoint_has_left_disables_nothing(
    database: Database, ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    (claimed,) = await some_claims(ours, tenant, endpoint, 1)
    await endpoints.update(
        database.core, endpoint, EndpointChanges("https://example.com/new", None, None, None)
    )
    await settle(ours, gone(claimed))
    assert (await endpoints.show(database.core, endpoint)).enabled
    assert await told_disabled(superuser) == []


async def test_410_that_comes_too_late_disables_nothing(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    (old,) = await some_claims(ours, tenant, endpoint, 1)
    await deliveries.take_over(ours.pool, [1])
    await settle(ours, gone(old))
    assert (await endpoints.show(database.core, endpoint)).enabled


async def test_whoever_is_at_the_endpoint_s_row_holds_results_up_for_a_moment_at_most(
    ours: Engine, superuser: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    """However many 410s came from it: an operator's open transaction must not stop a mode's settling."""
    claims = await some_claims(ours, tenant, endpoint, 6)
    async with superuser.transaction():
        await superuser.execute("SELECT FROM core.webhook_endpoints WHERE id = $1 FOR UPDATE", endpoint)
        async with asyncio.timeout(5):
            await settle(ours, *(gone(claimed) for claimed in claims))
    assert [row["status"] for row in await ours.rows()] == ["failed"] * 6
    assert await told_disabled(superuser) == [], "the next 410 tells"


async def test_410_from_two_workers_at_once_is_told_once(
    database: Database, ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    async with engine(database, worker_id=lambda: 2) as other:
        without_places(other)
        here = await some_claims(ours, tenant, endpoint, 1)
        there = await some_claims(other, tenant, endpoint, 1, worker=2)
        await asyncio.gather(settle(ours, gone(*here)), settle(other, gone(*there)))
    count = await database.data(Mode.TEST).fetchval(
        "SELECT count(*) FROM events WHERE type = 'webhook_endpoint_disabled'"
    )
    assert count == 1


# Health


async def test_the_endpoint_s_health_tells_its_present_fortune(
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
