"""Fan-out creates one delivery per event and matching endpoint, and takes each slot once."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers import fanout
from consumers.fanout import FANOUT, NoSlots
from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.deliveries import deliveries
from schema.event_log import log
from schema.modes import Mode
from tests.support.deliveries import LEASE_FOR, Queue, new_endpoint
from tests.support.delivery_slots import WORKER, CountedSlots, fan_out, pairs, rows
from tests.support.events import record, sequence_all


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)


async def test_each_event_goes_to_each_endpoint_of_its_tenant_and_mode(
    database: Database, data: Pool, new_tenant: Callable[[], Awaitable[UUID]]
) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    first, second = [await new_endpoint(database, ours) for _ in range(2)]
    other = await new_endpoint(database, theirs)
    await new_endpoint(database, ours, Mode.LIVE)
    a, b = await record(data, ours), await record(data, theirs)
    await sequence_all(data)
    await fan_out(data, NoSlots()).step()
    assert await pairs(data) == {(a, first), (a, second), (b, other)}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), {"subscription_created", "subscription_payment_failed", "invoice_created"}),
        (("*",), {"subscription_created", "subscription_payment_failed", "invoice_created"}),
        (("subscription_*",), {"subscription_created", "subscription_payment_failed"}),
        (("subscription_payment_*", "invoice_created"), {"subscription_payment_failed", "invoice_created"}),
        (("invoice_created",), {"invoice_created"}),
        (("webhook_test",), set()),
    ],
)
async def test_an_endpoint_gets_the_event_types_of_its_filter(
    database: Database, data: Pool, tenant: UUID, patterns: tuple[str, ...], expected: set[str]
) -> None:
    await new_endpoint(database, tenant, event_types=patterns)
    for type_ in ("subscription_created", "subscription_payment_failed", "invoice_created"):
        await record(data, tenant, type_)
    await sequence_all(data)
    assert await fan_out(data, NoSlots()).step() == 3
    assert {row["event_type"] for row in await rows(data)} == expected


async def test_a_disabled_endpoint_gets_skipped_deliveries_and_no_slot(
    database: Database, data: Pool, tenant: UUID
) -> None:
    endpoint = await new_endpoint(database, tenant, enabled=False)
    await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=5)
    await fan_out(data, slots).step()
    (row,) = await rows(data)
    assert (row["status"], row["endpoint_id"], row["lease"]) == ("skipped", endpoint, None)
    assert not +slots.taken
    assert slots.submitted == []


async def test_deliveries_with_a_slot_are_submitted_and_others_wait(
    database: Database, data: Pool, tenant: UUID
) -> None:
    endpoint = await new_endpoint(database, tenant)
    events = [await record(data, tenant, n=n) for n in range(5)]
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=3)
    await fan_out(data, slots).step()

    assert [claim.event_id for claim in slots.submitted] == events[:3]
    assert slots.taken == {(tenant, endpoint): 3}
    assert slots.characters == sum(len(claim.data) for claim in slots.submitted)
    held = {row["event_id"]: (row["lease"], row["leased_by"]) for row in await rows(data) if row["lease"]}
    assert held == {claim.event_id: (claim.lease, WORKER) for claim in slots.submitted}
    waiting = await Queue(data, tenant, endpoint).claim()
    assert {claim.event_id for claim in waiting} == set(events[3:])


async def test_a_submitted_delivery_equals_a_claimed_one(
    database: Database, data: Pool, tenant: UUID
) -> None:
    endpoint = await new_endpoint(database, tenant)
    await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=1)
    await fan_out(data, slots).step()
    (handed_over,) = slots.submitted
    await deliveries.take_over(data, [WORKER])
    (claimed,) = await Queue(data, tenant, endpoint).claim()
    assert handed_over.endpoint
    seen = replace(handed_over.endpoint, held=True)  # a claim has checked the limits already
    assert claimed == replace(handed_over, lease=claimed.lease, endpoint=seen)


async def test_a_cursor_set_back_creates_no_second_delivery(
    database: Database, data: Pool, tenant: UUID
) -> None:
    endpoint = await new_endpoint(database, tenant)
    for _ in range(3):
        await record(data, tenant)
    await sequence_all(data)
    await fan_out(data, CountedSlots(per_endpoint=9)).step()
    before = await rows(data)
    async with data.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, FANOUT)
        assert cursor
        await log.move_cursor(tx, cursor, 0)

    late = await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=9)
    assert await fan_out(data, slots).step() == 4
    assert [claim.event_id for claim in slots.submitted] == [late]
    assert slots.taken == {(tenant, endpoint): 1}
    assert slots.characters == len(slots.submitted[0].data)
    assert slots.uncertain == [], "the lease is in use"
    assert [row for row in await rows(data) if row["event_id"] != late] == before


FAIL = """
CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today' USING ERRCODE = '23514'; END $$;
CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON sandbox.{table}
    {when} FOR EACH ROW EXECUTE FUNCTION public.fail();
"""


@pytest.mark.parametrize(
    ("table", "when"),
    [
        ("webhook_deliveries", "NOT DEFERRABLE"),
        ("cursors", "NOT DEFERRABLE"),
        ("cursors", "DEFERRABLE INITIALLY DEFERRED"),
    ],
    ids=["insert", "cursor", "commit"],
)
async def test_a_batch_that_is_rolled_back_releases_its_slots(
    database: Database,
    data: Pool,
    owner: asyncpg.Connection,
    tenant: UUID,
    one_try: None,
    table: str,
    when: str,
) -> None:
    endpoint = await new_endpoint(database, tenant)
    for _ in range(4):
        await record(data, tenant)
    await sequence_all(data)
    await owner.execute(FAIL.format(table=table, when=when))
    slots = CountedSlots(per_endpoint=2)
    consumer = fan_out(data, slots)
    await consumer.step()
    assert not +slots.taken
    assert slots.characters == 0
    assert (slots.submitted, await rows(data)) == ([], [])
    assert len(slots.uncertain) == (table == "cursors"), (
        "an insert that fails has certainly not been committed"
    )

    await owner.execute(f"DROP TRIGGER fail ON sandbox.{table}")
    while await consumer.step():
        pass
    assert len(slots.submitted) == slots.taken[tenant, endpoint] == 2
    assert len(await pairs(data)) == 4


async def test_a_batch_ends_before_too_many_deliveries(
    database: Database, data: Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has whole events, and at least one."""
    monkeypatch.setattr(fanout, "MAX_PAIRS", 3)
    endpoints = [await new_endpoint(database, tenant) for _ in range(2)]
    events = [await record(data, tenant) for _ in range(5)]
    await sequence_all(data)
    consumer = fan_out(data, NoSlots())
    assert [await consumer.step() for _ in range(4)] == [2, 2, 1, 0]
    assert await pairs(data) == {(event, endpoint) for event in events for endpoint in endpoints}


async def test_leases_have_the_configured_duration(database: Database, data: Pool, tenant: UUID) -> None:
    await new_endpoint(database, tenant)
    await record(data, tenant)
    await sequence_all(data)
    await fan_out(data, CountedSlots(per_endpoint=1)).step()
    left = await data.fetchval("SELECT leased_until - now() FROM webhook_deliveries")
    assert LEASE_FOR - timedelta(seconds=30) < left <= LEASE_FOR


# Held endpoints


@pytest.mark.parametrize("why", ["paused", "rate limited", "open breaker", "half-open breaker"])
async def test_deliveries_of_a_held_endpoint_wait_without_a_slot(
    database: Database, data: Pool, tenant: UUID, why: str
) -> None:
    held, other = await new_endpoint(database, tenant), await new_endpoint(database, tenant)
    match why:
        case "paused":
            await endpoints.pause(database.core, await endpoints.show(database.core, held))
        case "rate limited":
            changes = endpoints.EndpointChanges(None, None, None, None, 5)
            await endpoints.update(database.core, held, changes)
        case _:
            open_until = "now() + interval '1 hour'" if why == "open breaker" else "now()"
            await data.execute(
                "INSERT INTO endpoint_health (endpoint_id, tenant_id, open_until, openings)"
                f" VALUES ($1, $2, {open_until}, 1)",
                *(held, tenant),
            )
    await record(data, tenant)
    await sequence_all(data)
    slots = CountedSlots(per_endpoint=9)
    await fan_out(data, slots).step()
    found = {row["endpoint_id"]: (row["status"], row["lease"] is None) for row in await rows(data)}
    assert found == {held: ("pending", True), other: ("pending", False)}
    assert slots.taken == {(tenant, other): 1}
    assert slots.others_wait == [True], "the dispatcher must claim it"
