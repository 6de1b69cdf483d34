"""Rollups: each event in its own hour, each amount in its own currency, each subscription from what it was to what it is."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer as loop
from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Connection, Database, Pool
from schema.event_log import log
from schema.event_log.log import LoggedEvent
from schema.event_log.partitions import ensure_past_partitions
from schema.ids import PLAN, format_id, new_id
from schema.modes import Mode
from schema.read_models import projections
from schema.read_models.rollups import ROLLUPS
from schema.secret_box import derive_role_password
from tests.support.events import sequence_all
from tests.support.read_models.expected_rollups import differences
from tests.support.read_models.rollups import RollupsFollower, rebuilding
from tests.support.read_models.subscription_events import event, plan_id, record_event
from tests.support.servers.connections import SANDBOX, Connect

SUCCESS, FAILED, REFUNDED = (
    "subscription_payment_success",
    "subscription_payment_failed",
    "subscription_payment_refunded",
)
ACTIVATED, PAST_DUE, RECOVERED = (
    "subscription_activated",
    "subscription_past_due",
    "subscription_recovered",
)
NewTenant = Callable[[], Awaitable[UUID]]


@pytest.fixture
def following(database: Database) -> RollupsFollower:
    return RollupsFollower(database)


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


async def move_to(owner: asyncpg.Connection, tenant: UUID, zone: str) -> None:
    await owner.execute(
        "INSERT INTO core.store_configs (tenant_id, display_name, time_zone) VALUES ($1, 'Store', $2)",
        tenant,
        zone,
    )


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def paid(
    data: Pool, tenant: UUID, amount: int, at: datetime | None = None, currency: str = "NGN"
) -> None:
    await record_event(data, tenant, event(SUCCESS, amount=amount, currency=currency), at)


async def revenue(following: RollupsFollower) -> dict[tuple[date, str], tuple[int, int, int]]:
    """By day and currency: gross, refunded, net."""
    return {
        (row["day"], row["currency"]): (row["gross"], row["refunded"], row["net"])
        for row in await following.view("daily_revenue")
    }


async def test_late_and_backdated_events_land_in_their_own_hour(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    now = datetime.now(UTC)
    await ensure_past_partitions(data, now - timedelta(days=70))
    hours = [
        (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0) for days in (60, 1, 33, 0)
    ]
    for hour in hours:
        await paid(data, tenant, 100, min(now, hour + timedelta(minutes=59)))
        await following.run_to_end()
    rows = await following.view("hourly_payments")
    assert sorted(row["hour"] for row in rows) == sorted(hours)
    assert {row["succeeded_amount"] for row in rows} == {100}


async def test_refunds_subtract_on_the_day_they_are_made(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    now = datetime.now(UTC)
    await ensure_past_partitions(data, now - timedelta(days=9))
    charged, refunded = now - timedelta(days=8), now - timedelta(days=2)
    await paid(data, tenant, 500_000, charged)
    await record_event(data, tenant, event(REFUNDED, amount=200_000), refunded)
    await following.run_to_end()
    lagos = timedelta(hours=1)
    assert await revenue(following) == {
        ((charged + lagos).date(), "NGN"): (500_000, 0, 500_000),
        ((refunded + lagos).date(), "NGN"): (0, 200_000, -200_000),
    }


async def test_currencies_are_never_added_together(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    now = datetime.now(UTC)
    for currency, amount in (("NGN", 100), ("USD", 7), ("NGN", 50), ("USD", 1)):
        await paid(data, tenant, amount, now, currency)
        await record_event(
            data,
            tenant,
            event(ACTIVATED, new_id(), amount=amount, currency=currency, interval="month"),
            now,
        )
    await following.run_to_end()
    assert sorted(key[1:] + sums[:1] for key, sums in (await revenue(following)).items()) == [
        ("NGN", 150),
        ("USD", 8),
    ]
    assert {row["currency"]: row["closing"] for row in await following.view("mrr")} == {"NGN": 150, "USD": 8}


@pytest.mark.parametrize(
    ("zone", "at", "day"),
    [
        (None, "2026-01-31T22:59:59.999", "2026-01-31"),
        (None, "2026-01-31T23:00", "2026-02-01"),
        ("Africa/Lagos", "2026-02-28T22:59", "2026-02-28"),
        ("Africa/Lagos", "2026-02-28T23:00", "2026-03-01"),
        ("Pacific/Kiritimati", "2026-04-30T09:59", "2026-04-30"),
        ("Pacific/Kiritimati", "2026-04-30T10:00", "2026-05-01"),
        ("America/New_York", "2026-03-08T04:59", "2026-03-07"),  # the day on which clocks go forward
        ("America/New_York", "2026-03-08T05:00", "2026-03-08"),
        ("America/New_York", "2026-03-09T03:59", "2026-03-08"),
        ("America/New_York", "2026-03-09T04:00", "2026-03-09"),
        ("Europe/London", "2025-10-25T22:59", "2025-10-25"),  # the night in which they go back
        ("Europe/London", "2025-10-25T23:00", "2025-10-26"),
        ("Europe/London", "2025-10-26T23:59", "2025-10-26"),
        ("Europe/London", "2025-10-27T00:00", "2025-10-27"),
        ("Mars/Olympus", "2026-01-31T23:00", "2026-02-01"),  # as in Lagos
        ("Asia/Kolkata", "2026-01-31T18:29", "2026-01-31"),
        (
            "Asia/Kolkata",
            "2026-01-31T18:30",
            "2026-01-31",
        ),  # half an hour late: days are made of hours of UTC
        ("Asia/Kolkata", "2026-01-31T19:00", "2026-02-01"),
    ],
)
async def test_a_day_is_one_of_the_tenants_time_zone(
    following: RollupsFollower,
    data: Pool,
    owner: asyncpg.Connection,
    tenant: UUID,
    zone: str | None,
    at: str,
    day: str,
) -> None:
    if zone is not None:
        await move_to(owner, tenant, zone)
    await ensure_past_partitions(data, utc(at))
    await paid(data, tenant, 1, utc(at))
    await record_event(data, tenant, event(ACTIVATED, new_id()), utc(at))
    await record_event(data, tenant, event(PAST_DUE, new_id()), utc(at))
    await following.run_to_end()
    views = ("daily_revenue", "daily_payments", "subscription_movements", "recovery")
    assert {row["day"] for view in views for row in await following.view(view)} == {date.fromisoformat(day)}
    assert min(row["day"] for row in await following.view("mrr")) == date.fromisoformat(day)


async def test_mrr_has_a_row_for_every_day_until_now(
    following: RollupsFollower, data: Pool, tenant: UUID, owner: asyncpg.Connection
) -> None:
    await move_to(owner, tenant, "UTC")
    now = datetime.now(UTC)
    began, ended = now - timedelta(days=40), now - timedelta(days=9)
    await ensure_past_partitions(data, began)
    subscription = new_id()
    await record_event(data, tenant, event(ACTIVATED, subscription, amount=1200, interval="year"), began)
    await record_event(data, tenant, event("subscription_cancelled", subscription), ended)
    await following.run_to_end()
    rows = sorted(await following.view("mrr"), key=lambda row: row["day"])
    assert [row["day"] for row in rows] == [began.date() + timedelta(days=n) for n in range(41)]
    for row in rows:
        assert row["closing"] == (100 if row["day"] < ended.date() else 0)
        assert row["opening"] == (100 if began.date() < row["day"] <= ended.date() else 0)
        assert row["new"] == (100 if row["day"] == began.date() else 0)
        assert row["churn_voluntary"] == (-100 if row["day"] == ended.date() else 0)
        assert row["subscriptions"] == (1 if row["day"] < ended.date() else 0)


async def kinds(data: Pool) -> list[tuple[str, int, int, int]]:
    rows = await data.fetch(
        "SELECT kind, sum(subscriptions)::int, sum(counted)::int, sum(mrr)::int FROM movement_hours GROUP BY 1 ORDER BY 1"
    )
    return [tuple(row) for row in rows]


Story = list[tuple[str, dict[str, Any]]]
MONTH: dict[str, Any] = {"amount": 100, "currency": "NGN", "interval": "month"}


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        pytest.param(
            [("subscription_created", {}), (PAST_DUE, {}), ("subscription_unpaid", {})],
            [],
            id="a trial that was never paid is neither new nor churn",
        ),
        pytest.param(
            [(PAST_DUE, {}), (RECOVERED, {})],
            [("new", 1, 1, 100)],
            id="a trial whose dunning recovers is new",
        ),
        pytest.param(
            [(ACTIVATED, {}), (PAST_DUE, {}), (RECOVERED, {})],
            [("new", 1, 1, 100)],
            id="past due counts on",
        ),
        pytest.param(
            [
                (ACTIVATED, {}),
                (PAST_DUE, {}),
                ("subscription_unpaid", {}),
                ("subscription_cancelled", {"reason": "requested"}),
            ],
            [("churn_involuntary", 1, -1, -100), ("new", 1, 1, 100)],
            id="what churned when it became unpaid does not churn again",
        ),
        pytest.param(
            [(ACTIVATED, {}), (PAST_DUE, {}), ("subscription_unpaid", {}), (RECOVERED, {})],
            [("churn_involuntary", 1, -1, -100), ("new", 1, 1, 100), ("reactivation", 1, 1, 100)],
            id="paid after it was given up is a reactivation",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_cancelled", {"reason": "fraud"})],
            [("churn_involuntary", 1, -1, -100), ("new", 1, 1, 100)],
            id="fraud is no wish of the customer's",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_paused", {}), ("subscription_resumed", {"amount": 150})],
            [("new", 1, 1, 100), ("paused", 1, -1, -100), ("resumed", 1, 1, 150)],
            id="a pause is no churn, and what it ends with counts",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_paused", {}), ("subscription_cancelled", {})],
            [("churn_voluntary", 1, 0, 0), ("new", 1, 1, 100), ("paused", 1, -1, -100)],
            id="a paused one that is cancelled churns without MRR",
        ),
        pytest.param(
            [("subscription_created", {}), ("subscription_paused", {}), ("subscription_cancelled", {})],
            [],
            id="a paused one that never was active does not churn",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_expired", {})],
            [("completed", 1, -1, -100), ("new", 1, 1, 100)],
            id="the last cycle is no churn",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_plan_changed", {"amount": 600, "interval": "quarter"})],
            [("expansion", 1, 0, 100), ("new", 1, 1, 100)],
            id="a dearer plan expands by the difference in a month",
        ),
        pytest.param(
            [
                (ACTIVATED, {}),
                (
                    "subscription_plan_changed",
                    {"amount": 300, "interval": "quarter", "planId": format_id(PLAN, UUID(int=9))},
                ),
            ],
            [("new", 1, 1, 100), ("switch", 1, 0, 0)],
            id="another plan at the same price is a switch",
        ),
        pytest.param(
            [(ACTIVATED, {}), ("subscription_plan_changed", {"amount": 9, "currency": "USD"})],
            [("contraction", 1, -1, -100), ("expansion", 1, 1, 9), ("new", 1, 1, 100)],
            id="another currency contracts the one and expands the other",
        ),
        pytest.param(
            [
                ("subscription_plan_changed", {"status": "trialing", "amount": 70}),
                (ACTIVATED, {"amount": 70}),
            ],
            [("new", 1, 1, 70)],
            id="a plan changed on trial has not expanded",
        ),
    ],
)
async def test_movements(
    following: RollupsFollower,
    data: Pool,
    tenant: UUID,
    story: Story,
    expected: list[tuple[str, int, int, int]],
    superuser: asyncpg.Connection,
) -> None:
    subscription = new_id()
    for type_, told in story:
        await record_event(data, tenant, event(type_, subscription, **(MONTH | told)))
    await following.run_to_end()
    assert await kinds(data) == expected
    assert await differences(superuser) == {}


async def test_a_plan_change_moves_mrr_between_the_plans(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    subscription, cheap, dear = new_id(), plan_id(), plan_id()
    await record_event(data, tenant, event(ACTIVATED, subscription, **MONTH, planId=cheap))
    await record_event(
        data,
        tenant,
        event("subscription_plan_changed", subscription, **(MONTH | {"amount": 250}), planId=dear),
    )
    await following.run_to_end()
    by_plan = {row["plan_id"]: row for row in await following.view("subscription_movements")}
    assert (by_plan[cheap]["counted_change"], by_plan[cheap]["mrr_change"]) == (0, 0)
    assert (by_plan[dear]["counted_change"], by_plan[dear]["mrr_change"], by_plan[dear]["expanded"]) == (
        1,
        250,
        1,
    )
    (day,) = await following.view("mrr")
    assert (day["new"], day["expansion"], day["contraction"], day["closing"]) == (100, 150, 0, 250)


async def test_recovery_is_told_by_the_failure_it_began_with(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    def of(type_: str, subscription: UUID, code: str, **more: Any) -> tuple[str, dict[str, Any]]:
        return event(type_, subscription, amount=100, failureCode=code, **more)

    one, two, three, four = [new_id() for _ in range(4)]
    for subscription in (one, two, three, four):
        await record_event(data, tenant, event(ACTIVATED, subscription))
        await record_event(data, tenant, of(PAST_DUE, subscription, "expired_card"))
    await record_event(data, tenant, of("subscription_payment_recovered", one, "timeout"))
    await record_event(data, tenant, of("subscription_unpaid", two, "do_not_honor", reason="enough"))
    await record_event(data, tenant, event("subscription_cancelled", three))
    await record_event(data, tenant, of("subscription_payment_recovered", two, "do_not_honor"))
    await following.run_to_end()
    (row,) = await following.view("recovery")
    assert row["failure_code"] == "expired_card"
    assert [row[kind] for kind in ("at_risk", "recovered", "exhausted", "cancelled", "won_back")] == [
        *(4, 1, 1, 1, 1)
    ]
    assert row["recovered_amount"] == row["won_back_amount"] == 100
    assert str(row["recovery_rate"]) == "0.3333"


MALFORMED: list[Any] = [
    ...,
    None,
    True,
    "500000",
    1e30,
    10**30,
    -1,
    5.5,
    [],
    {"amount": 1},
    10**15 + 1,
    "x" * 3000,
    "₦",
]


@pytest.mark.parametrize("value", MALFORMED, ids=str)
async def test_malformed_data_is_counted_without_guessing(
    following: RollupsFollower, data: Pool, tenant: UUID, superuser: asyncpg.Connection, value: Any
) -> None:
    """In each field that is looked at, in each type; beside an event in order, in one batch."""
    fields = (
        *("amount", "currency", "planId", "subscriptionId", "rail"),
        *("failureCode", "status", "interval", "reason"),
    )
    subscription = new_id()
    told = [
        event(type_, subscription, **{field: value})
        for type_ in (ACTIVATED, "subscription_updated", PAST_DUE, SUCCESS, "subscription_payment_recovered")
        for field in fields
    ]
    for what in told:
        await record_event(data, tenant, what)
    await following.run_to_end()
    assert following.consumer.dead_lettered == 0
    assert await data.fetchval("SELECT sum(events) FROM event_hours") == len(told)
    without_a_currency = value in (None, ...)  # is naira, and so priced
    unpriced = await data.fetchval("SELECT sum(unpriced) FROM event_hours")
    assert unpriced == (1 if without_a_currency else 2) * 5
    assert await differences(superuser) == {}


async def test_an_object_without_anything_is_counted_in_each_type(
    following: RollupsFollower, data: Pool, tenant: UUID, superuser: asyncpg.Connection
) -> None:
    types = [row["name"] for row in await data.fetch("SELECT name FROM event_types")]
    deep = "[" * 3000 + "]" * 3000
    for type_ in types:
        await record_event(data, tenant, (type_, {}))
        await data.execute(f"SELECT record_event($1::uuid, $2, '{{\"a\": {deep}}}')", tenant, type_)
    await following.run_to_end()
    assert {row["type"]: row["events"] for row in await following.view("hourly_events")} == dict.fromkeys(
        types, 2
    )
    assert await differences(superuser) == {}


async def test_an_event_without_a_price_keeps_the_price(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    subscription = new_id()
    await record_event(data, tenant, event(ACTIVATED, subscription, **MONTH))
    await record_event(data, tenant, event("subscription_updated", subscription, amount="9", status="active"))
    await record_event(data, tenant, event(PAST_DUE, subscription, amount=...))
    await following.run_to_end()
    assert await kinds(data) == [("new", 1, 1, 100)]


async def test_sums_beyond_a_bigint_are_kept_and_shown_as_null(
    following: RollupsFollower, data: Pool, new_tenant: NewTenant
) -> None:
    """A thousand of the largest amounts are one batch; ten thousand are more than a bigint holds."""
    tenant, other = await new_tenant(), await new_tenant()
    await paid(data, other, 5)
    _, told = event(SUCCESS, amount=10**15)
    await data.execute(
        "SELECT record_event($1::uuid, $2, jsonb_set(jsonb_set($3::jsonb, '{amount}', '1000000000000000'), '{n}', n::text::jsonb))"
        "  FROM generate_series(1, 10000) AS n",
        tenant,
        SUCCESS,
        '{"currency": "NGN"}',
    )
    await following.run_to_end()
    assert following.consumer.dead_lettered == 0
    assert await data.fetchval("SELECT sum(amount) FROM event_hours") == 10**19 + 5
    gross = {row["payments"]: row["gross"] for row in await following.view("daily_revenue")}
    assert gross == {10_000: None, 1: 5}
    assert told["amount"] == 10**15


async def test_tenants_and_modes_are_apart(database: Database, new_tenant: NewTenant) -> None:
    one, two = await new_tenant(), await new_tenant()
    subscription = new_id()
    for mode in Mode:
        pool = database.data(mode)
        for tenant, amount in ((one, 100), (two, 7)):
            amount_here = amount * (2 if mode is Mode.LIVE else 1)
            await paid(pool, tenant, amount_here)
            await record_event(
                pool, tenant, event(ACTIVATED, subscription, **(MONTH | {"amount": amount_here}))
            )
        await RollupsFollower(database, mode).run_to_end()
    for mode, times in ((Mode.TEST, 1), (Mode.LIVE, 2)):
        following = RollupsFollower(database, mode)
        assert sorted(row["gross"] for row in await following.view("daily_revenue")) == [
            7 * times,
            100 * times,
        ]
        assert sorted(row["closing"] for row in await following.view("mrr")) == [7 * times, 100 * times]


async def test_as_of_is_the_first_event_not_yet_applied(
    following: RollupsFollower, data: Pool, tenant: UUID
) -> None:
    await paid(data, tenant, 1)
    await following.run_to_end()
    before = datetime.now(UTC)
    await paid(data, tenant, 1)
    after = datetime.now(UTC)
    (row,) = await following.view("daily_revenue")
    assert row["payments"] == 1
    assert before <= row["as_of"] <= after
    await following.run_to_end()
    (row,) = await following.view("daily_revenue")
    assert row["payments"] == 2
    assert row["as_of"] > after


class Poisoned(Rollups):
    def __init__(self, poison: set[int]) -> None:
        self.poison = poison

    async def project(self, tx: Connection, generation: int, events: list[LoggedEvent]) -> None:  # type: ignore[override]
        await super().project(tx, generation, events)
        if self.poison & {each.pos for each in events}:
            raise LookupError("poison")


async def test_a_retried_dead_event_counts_in_its_own_hour(
    following: RollupsFollower,
    data: Pool,
    tenant: UUID,
    superuser: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A subscription's first month was dead-lettered and later events were applied: a retry then adds no movement."""
    monkeypatch.setattr(loop, "TRIES_PER_BATCH", 1)
    subscription, other = new_id(), new_id()
    for type_, told in [
        (ACTIVATED, {"amount": 100}),
        ("subscription_plan_changed", {"amount": 300}),
        ("subscription_cancelled", {}),
    ]:
        await record_event(data, tenant, event(type_, subscription, **(MONTH | told)))
    await record_event(data, tenant, event(ACTIVATED, other, **MONTH))
    await sequence_all(data)
    poisoned = Poisoned({1, 4})
    consumer = Consumer(data, ProjectionHandler(poisoned))
    while await consumer.step():
        pass
    assert [dead.pos for dead in await log.dead_events(data, ROLLUPS, 0, 10)] == [1, 4]
    assert await differences(superuser, without=[1, 4]) == {}
    poisoned.poison.clear()
    for dead in await log.dead_events(data, ROLLUPS, 0, 10):
        found = await log.read_one(data, dead.pos)
        assert found is not None
        assert await consumer.retry_dead_event(found)
        assert not await consumer.retry_dead_event(found)
    wrong = await differences(superuser)
    assert wrong.keys() == {"subscription_movements", "mrr"}
    assert {row["closing"] for row in await following.view("mrr")} == {100}
    assert await data.fetchval("SELECT closing FROM mrr") == 100

    await projections.begin_rebuild(data, ROLLUPS)
    building = rebuilding(data)
    while await building.step():
        pass
    assert await projections.finish_rebuild(data, ROLLUPS)
    assert await differences(superuser) == {}


async def test_a_retry_waits_for_the_batch_that_writes(
    following: RollupsFollower, data: Pool, connect: Connect, tenant: UUID, db_url: str, key: bytes
) -> None:
    """Two writers would move one subscription from the same state. Here they have no row in common but the consumer's."""
    for type_ in (SUCCESS, FAILED):
        await record_event(data, tenant, event(type_))
    await sequence_all(data)
    one, other = (await log.read_after(data, 0, 2)).events
    async with data.acquire() as writing, writing.transaction():
        await log.dead_letter(writing, ROLLUPS, other, "a defect that is mended")
    first = await connect()
    batch = first.transaction()
    await batch.start()
    assert await log.take_cursor(first, ROLLUPS)
    await Rollups().project(first, 1, [one])
    async with asyncpg.create_pool(
        db_url,
        user=SANDBOX,
        password=derive_role_password(key, SANDBOX),
        server_settings={"search_path": "sandbox", "lock_timeout": "50ms"},
        min_size=1,
        max_size=1,
    ) as impatient:
        retrying = Consumer(impatient, ProjectionHandler(Rollups()))
        with pytest.raises(asyncpg.LockNotAvailableError):
            await retrying.retry_dead_event(other)
        await batch.commit()
        assert await retrying.retry_dead_event(other)
    assert await data.fetchval("SELECT sum(events) FROM event_hours") == 2


@pytest.mark.parametrize(
    ("zone", "taken"),
    [
        *((name, name) for name in ("Asia/Kolkata", "UTC", "Etc/GMT+1", "America/Argentina/Salta")),
        *(
            (name, "Africa/Lagos")
            for name in ("UTC+1", "Lagos1", "FOO+5", "5", "interval '1'", "Mars/Olympus", None)
        ),
    ],
)
async def test_only_a_zone_s_name_is_one(data: Pool, zone: str | None, taken: str) -> None:
    """UTC+1 would be an hour west of Greenwich, as PostgreSQL reads it."""
    assert await data.fetchval("SELECT time_zone_or_lagos($1)", zone) == taken
