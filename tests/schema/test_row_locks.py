"""Row locks, as a second session meets them: what it passes over, what it waits for, and the order in which locks are taken.

Nothing here waits for time to pass. A statement that should pass over a locked row, and waits for it, fails by its lock timeout.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Lane, Verdict
from schema.ids import new_id
from schema.installation.roles import CORE_ROLE
from schema.modes import Mode
from schema.queries import load
from tests.support.billing.billing_world import GOOD_CARD, TenantBilling, idle_tenant_billing
from tests.support.billing.due import add_due
from tests.support.billing.wallets import new_phone
from tests.support.database_waits import wait_until_blocked
from tests.support.deliveries import LEASE_FOR, WORKER, Queue, new_endpoint, plan
from tests.support.events import sequenced
from tests.support.servers.connections import SANDBOX, Connect
from tests.support.servers.databases import OWNER

NOW: Final = datetime(2026, 11, 30, 10, 30, tzinfo=UTC)
ENDED: Final = timedelta(0)
DEAD: Final = 4711
SOON: Final = "200ms"


@dataclass(frozen=True)
class Statement:
    """A statement of queries/, and a row that it would lock."""

    arguments: Sequence[object]
    table: str
    row: UUID | int | str
    key: str = "id"
    left: int = 1
    """How many rows the statement finds, or changes, beside that one."""
    role: str = SANDBOX


@dataclass(frozen=True)
class World:
    database: Database
    tenant: UUID
    owner: asyncpg.Connection

    @property
    def data(self) -> Any:
        return self.database.data(Mode.TEST)

    async def queue(self) -> Queue:
        return Queue(self.data, self.tenant, await new_endpoint(self.database, self.tenant))

    async def due(self, status: str) -> list[UUID]:
        """Two subscriptions in this status, with something to do by NOW."""
        await add_due(self.database, self.data, self.tenant, 8, NOW, [GOOD_CARD])
        found = await self.data.fetch("SELECT id FROM subscriptions WHERE status = $1 LIMIT 2", status)
        await self.data.execute(
            "UPDATE subscriptions SET held_until = 'infinity', fault = 'not this one' WHERE id <> ALL($1::uuid[])",
            [row["id"] for row in found],
        )
        return [row["id"] for row in found]

    async def in_flight(self) -> list[UUID]:
        """Two charges that nobody has answered for."""
        billing = await self.billing()
        plan_ = await billing.plan()
        for _ in range(2):
            await billing.checkout.subscribe(billing.contact(), plan_.id, await billing.card())
        found = await self.data.fetch("SELECT id FROM payment_attempts ORDER BY id")
        return [row["id"] for row in found]

    async def billing(self) -> TenantBilling:
        return await idle_tenant_billing(self.database)


@pytest.fixture
def world(database: Database, tenant: UUID, owner: asyncpg.Connection) -> World:
    return World(database, tenant, owner)


Prepare = Callable[[World], Awaitable[Statement]]


async def claim(world: World) -> Statement:
    queue = await world.queue()
    ids = await queue.add(2)
    arguments = (Lane.FIRST, [queue.endpoint], [10], 1, WORKER, LEASE_FOR, True)
    return Statement(arguments, "webhook_deliveries", ids[0])


async def skip_waiting(world: World) -> Statement:
    queue = await world.queue()
    ids = await queue.add(2)
    await world.data.execute("SELECT disable_endpoint($1, 'asked for', NULL)", queue.endpoint)
    return Statement((Lane.FIRST, queue.endpoint, 10), "webhook_deliveries", ids[0])


async def take_over_deliveries(world: World) -> Statement:
    ids = await leased(world)
    return Statement(([DEAD],), "webhook_deliveries", ids[0])


async def release_orphans(world: World) -> Statement:
    ids = await leased(world)
    await world.data.execute("UPDATE webhook_deliveries SET leased_until = now() - $1::interval", LEASE_FOR)
    return Statement(([], LEASE_FOR, ENDED), "webhook_deliveries", ids[0])


async def leased(world: World) -> list[UUID]:
    queue = await world.queue()
    ids = await queue.add(2)
    await queue.claim(worker=DEAD)
    return ids


async def lock_rate_limits(world: World) -> Statement:
    endpoints = [new_id(), new_id()]
    await world.data.execute(load("deliveries")["add_rate_limits"], endpoints)
    return Statement((endpoints,), "endpoint_rate_limits", endpoints[0], "endpoint_id")


async def lock_absent(world: World) -> Statement:
    worker = await world.owner.fetchval(
        "INSERT INTO core.workers (name, pid, session_start) VALUES ('dead', 1, '-infinity') RETURNING id"
    )
    return Statement((worker,), "core.workers", worker, left=0, role=CORE_ROLE)


async def lock_due(world: World) -> Statement:
    subscriptions = await world.due("active")
    return Statement(("active", NOW, 10, None), "subscriptions", subscriptions[0])


async def lock_recovering(world: World) -> Statement:
    subscriptions = await world.due("past_due")
    return Statement(("waiting", NOW, 10, None), "subscriptions", subscriptions[0])


async def take_over_charges(world: World) -> Statement:
    attempts = await world.in_flight()
    later = NOW + timedelta(days=1)
    return Statement((later, 10, later, None), "payment_attempts", attempts[0])


async def expire(world: World) -> Statement:
    first, _second = await sessions(world)
    return Statement((NOW + timedelta(days=2), 10), "checkout_sessions", first)


async def sessions(world: World) -> list[UUID]:
    billing = await world.billing()
    await billing.catalog.create_link((await billing.plan()).id, "gold")
    return [(await billing.checkout.open("gold")).id for _ in range(2)]


async def take_cursor(_world: World) -> Statement:
    return Statement(("fanout",), "consumers", "fanout", "name", left=0)


PASSES_OVER: Mapping[str, Prepare] = {
    "billing_cases.lock_due": lock_due,
    "billing_cases.lock_recovering": lock_recovering,
    "billing_cases.take_over": take_over_charges,
    "checkout_sessions.expire": expire,
    "deliveries.claim": claim,
    "deliveries.lock_rate_limits": lock_rate_limits,
    "deliveries.release_orphans": release_orphans,
    "deliveries.skip_waiting": skip_waiting,
    "deliveries.take_over": take_over_deliveries,
    "log.take_cursor": take_cursor,
    "workers.lock_absent": lock_absent,
}


@pytest.mark.parametrize("name", PASSES_OVER)
async def test_a_row_that_another_session_has_locked_is_passed_over(
    world: World, connect: Connect, name: str
) -> None:
    statement = await PASSES_OVER[name](world)
    other, ours = await connect(OWNER), await connect(statement.role)
    await other.execute("BEGIN")
    await lock_row(other, statement)
    await ours.execute(f"BEGIN; SET LOCAL lock_timeout = '{SOON}'")
    assert await affected(ours, name, statement) == statement.left
    await ours.execute("ROLLBACK")
    await other.execute("ROLLBACK")
    await ours.execute("BEGIN")
    assert await affected(ours, name, statement) == statement.left + 1, "it is free again"


async def lock_row(session: asyncpg.Connection, statement: Statement, how: str = "") -> None:
    locked = await session.fetch(
        f"SELECT FROM {statement.table} WHERE {statement.key} = $1 FOR UPDATE {how}", statement.row
    )
    assert len(locked) == 1


async def affected(session: asyncpg.Connection, name: str, statement: Statement) -> int:
    file, _, query = name.partition(".")
    prepared = await session.prepare(load(file)[query])
    rows = await prepared.fetch(*statement.arguments)
    if name == "checkout_sessions.expire":
        return int(rows[0][0])
    return len(rows) or int(prepared.get_statusmsg().rpartition(" ")[2])


async def lock_subscription(world: World) -> Statement:
    (subscription, _other) = await world.due("active")
    return Statement((world.tenant, subscription), "subscriptions", subscription)


async def lock_of_attempts(world: World) -> Statement:
    attempts = await world.in_flight()
    row = await world.data.fetchrow(
        "SELECT tenant_id, subscription_id FROM payment_attempts WHERE id = $1", attempts[0]
    )
    return Statement(([row["tenant_id"]], [attempts[0]]), "subscriptions", row["subscription_id"])


async def lock_session(world: World) -> Statement:
    session = (await sessions(world))[0]
    tenant = await world.data.fetchval("SELECT tenant_id FROM checkout_sessions WHERE id = $1", session)
    return Statement((tenant, session), "checkout_sessions", session)


async def lock_endpoint(world: World) -> Statement:
    endpoint = await new_endpoint(world.database, world.tenant)
    return Statement((endpoint,), "core.webhook_endpoints", endpoint, role=CORE_ROLE)


async def lock_consumer(_world: World) -> Statement:
    return Statement(("fanout",), "consumers", "fanout", "name")


async def lock_replay(world: World) -> Statement:
    job = new_id()
    await world.data.execute(
        "INSERT INTO webhook_replays (id, tenant_id, kind, statuses, after_pos, until_pos, at_pos)"
        " VALUES ($1, $2, 'replay', '{failed}', 0, 1, 0)",
        job,
        world.tenant,
    )
    return Statement((job,), "webhook_replays", job)


async def lock_identity(world: World) -> Statement:
    identity = new_id()
    await world.database.core.execute(
        "INSERT INTO customer_identities (id, phone) VALUES ($1, $2)", identity, new_phone()
    )
    return Statement((identity,), "core.customer_identities", identity, role=CORE_ROLE)


async def lock_phone(_world: World) -> Statement:
    return Statement((new_phone(),), "", 0, role=CORE_ROLE)


WAITS: Mapping[str, Prepare] = {
    "billing_cases.lock": lock_subscription,
    "billing_cases.lock_of_attempts": lock_of_attempts,
    "checkout_sessions.lock": lock_session,
    "endpoints.lock": lock_endpoint,
    "log.lock_consumer": lock_consumer,
    "replays.lock": lock_replay,
    "wallet.lock_identity": lock_identity,
    "wallet.lock_phone": lock_phone,
}


@pytest.mark.parametrize("name", WAITS)
async def test_a_lock_keeps_a_second_session_out_until_the_transaction_ends(
    world: World, connect: Connect, name: str
) -> None:
    statement = await WAITS[name](world)
    file, _, query = name.partition(".")
    one, two = await connect(statement.role), await connect(statement.role)
    await one.execute("BEGIN")
    assert len(await one.fetch(load(file)[query], *statement.arguments)) == 1
    await two.execute(f"BEGIN; SET LOCAL lock_timeout = '{SOON}'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await two.fetch(load(file)[query], *statement.arguments)
    await two.execute("ROLLBACK")
    await one.execute("COMMIT")
    assert len(await two.fetch(load(file)[query], *statement.arguments)) == 1


SHOWN_BELOW: Final = {"endpoint_health.reset_health", "replays.replay_one"}
IN_ORDER: Final = {"billing_cases.release"}  # tests/service/billing/test_scanner_races.py


def test_every_statement_that_locks_rows_is_tried_here() -> None:
    names = {
        f"{path.name.removesuffix('.sql')}.{name}": statement
        for path in files("schema").joinpath("queries").iterdir()
        if path.name.endswith(".sql") and path.name != "bench.sql"
        for name, statement in load(path.name.removesuffix(".sql")).items()
    }
    locking = {
        name
        for name, statement in names.items()
        if "FOR UPDATE" in statement or "FOR NO KEY UPDATE" in statement
    }
    assert locking <= {*PASSES_OVER, *WAITS, *SHOWN_BELOW, *IN_ORDER}


async def test_of_two_replays_at_once_the_second_adds_an_attempt(world: World, connect: Connect) -> None:
    """It waits for the first one, and then finds the delivery pending."""
    queue = await world.queue()
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), Verdict.FAILED)
    replay_one = load("replays")["replay_one"]
    one, two = await connect(SANDBOX), await connect(SANDBOX)
    await one.execute("BEGIN")
    assert await one.fetchval(replay_one, queue.tenant, delivery) == "failed"
    second = asyncio.create_task(two.fetchval(replay_one, queue.tenant, delivery))
    await wait_until_blocked(world.owner, two)
    await one.execute("COMMIT")
    assert await second == "pending"
    assert (await queue.show(delivery)).replays == 1


async def test_of_two_who_disable_a_failing_endpoint_at_once_one_resets_its_health(
    world: World, connect: Connect
) -> None:
    """The other finds nothing to tell of, so there is one event."""
    endpoint = await new_endpoint(world.database, world.tenant)
    since = await world.data.fetchval(
        "INSERT INTO endpoint_health (endpoint_id, tenant_id, consecutive_failures, failing_since, last_error)"
        " VALUES ($1, $2, 3, now(), 'answered 500') RETURNING failing_since",
        endpoint,
        world.tenant,
    )
    reset = load("endpoint_health")["reset_health"]
    one, two = await connect(SANDBOX), await connect(SANDBOX)
    await one.execute("BEGIN")
    assert tuple(await one.fetchrow(reset, endpoint, since)) == (3, "answered 500")
    second = asyncio.create_task(two.fetchrow(reset, endpoint, since))
    await wait_until_blocked(world.owner, two)
    await one.execute("COMMIT")
    assert await second is None


async def health_of_two(world: World) -> tuple[Statement, Statement]:
    first, last = sorted([new_id(), new_id()])
    for endpoint in (first, last):
        await world.data.execute(
            "INSERT INTO endpoint_health (endpoint_id, tenant_id) VALUES ($1, $2)", endpoint, world.tenant
        )
    arguments = ([last, first], [world.tenant] * 2, [False] * 2, [1, 1], ["answered 500"] * 2)
    return (
        Statement(arguments, "endpoint_health", first, "endpoint_id"),
        Statement(arguments, "endpoint_health", last, "endpoint_id"),
    )


async def two_phones(world: World) -> tuple[Statement, Statement]:
    first, last = sorted([new_phone(), new_phone()])
    for phone in (first, last):
        await world.database.core.execute(
            "INSERT INTO customer_identities (id, phone) VALUES ($1, $2)", new_id(), phone
        )
    arguments = ([new_id(), new_id()], [last, first])
    return (
        Statement(arguments, "core.customer_identities", first, "phone", role=CORE_ROLE),
        Statement(arguments, "core.customer_identities", last, "phone", role=CORE_ROLE),
    )


ORDERED: Mapping[str, Callable[[World], Awaitable[tuple[Statement, Statement]]]] = {
    "endpoint_health.note_health": health_of_two,
    "wallet.add_identities": two_phones,
}


@pytest.mark.parametrize("name", ORDERED)
async def test_rows_are_locked_in_one_order_however_they_are_given(
    world: World, connect: Connect, name: str
) -> None:
    """While it waits for the first row it holds no later one, so that two sessions cannot deadlock."""
    first, last = await ORDERED[name](world)
    file, _, query = name.partition(".")
    other, ours = await connect(OWNER), await connect(first.role)
    await other.execute("BEGIN")
    await lock_row(other, first)
    waiting = asyncio.create_task(ours.fetch(load(file)[query], *first.arguments))
    await wait_until_blocked(world.owner, ours)
    await lock_row(other, last, "NOWAIT")
    await other.execute("COMMIT")
    await waiting


async def test_a_backfill_takes_events_in_the_order_of_the_log(world: World, connect: Connect) -> None:
    """As fan-out does, which may be making the same deliveries: each would wait for the other."""
    queue = await world.queue()
    events = await sequenced(world.data, world.tenant, 2)
    fan_out, backfill = await connect(SANDBOX), await connect(SANDBOX)
    await fan_out.execute(f"BEGIN; SET LOCAL lock_timeout = '{SOON}'")
    await deliveries.fan_out(fan_out, [plan(events[0], queue.endpoint)], 1, WORKER, LEASE_FOR)
    ids, moments = [e.id for e in events[::-1]], [e.created_at for e in events[::-1]]
    filling = asyncio.create_task(
        backfill.fetchval(
            load("replays")["backfill"], world.tenant, queue.endpoint, ids, moments, ["invoice_created"]
        )
    )
    await wait_until_blocked(world.owner, backfill)
    assert await deliveries.fan_out(fan_out, [plan(events[1], queue.endpoint)], 1, WORKER, LEASE_FOR)
    await fan_out.execute("COMMIT")
    assert await filling == 0
