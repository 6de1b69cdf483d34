"""Whatever a few subscriptions go through, possible or not, and however the log is cut into batches: the sums are the same,
and they are what SQL reckons.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.rollups.event_facts import MAX_AMOUNT, STATUSES
from consumers.rollups.monthly_price import PER_MONTH as INTERVALS
from consumers.rollups.monthly_price import monthly
from consumers.rollups.movements import STATEFUL
from consumers.rollups.rollup_deltas import DeltaBatch
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Database
from schema.event_log.log import LoggedEvent
from schema.ids import PLAN, SUBSCRIPTION, format_id
from schema.modes import Mode
from schema.read_models.rollups import Deltas, SubscriptionStates
from tests.support.events import sequence_all
from tests.support.read_models.expected_rollups import PER_MONTH, differences
from tests.support.read_models.subscription_events import record_event

on_one_database = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = sorted({*STATEFUL, "subscription_payment_success", "subscription_payment_failed"})
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

sometimes_odd = st.sampled_from([None, True, "7", -1, 1e30, 10**300])
told = st.fixed_dictionaries(
    {"subscriptionId": st.integers(1, 3).map(lambda n: format_id(SUBSCRIPTION, UUID(int=n)))},
    optional={
        "amount": st.integers(0, 20) | st.just(MAX_AMOUNT) | sometimes_odd,
        "currency": st.sampled_from(["NGN", "USD", "naira", None]),
        "interval": st.sampled_from([*INTERVALS, "fortnight"]),
        "planId": st.integers(1, 2).map(lambda n: format_id(PLAN, UUID(int=n))) | sometimes_odd,
        "status": st.sampled_from([*sorted(STATUSES), "resting"]),
        "failureCode": st.sampled_from(["timeout", "expired_card", "not a word"]),
        "reason": st.sampled_from(["fraud", "requested"]),
        "rail": st.sampled_from(["card", "ussd"]),
    },
)
histories = st.lists(st.tuples(st.sampled_from(TYPES), told, st.integers(0, 5)), min_size=1, max_size=25)
cuts = st.lists(st.integers(1, 6), min_size=25, max_size=25)
History = list[tuple[str, dict[str, Any], int]]


def logged(history: History) -> list[LoggedEvent]:
    return [
        LoggedEvent(
            pos,
            UUID(int=pos),
            UUID(int=1),
            type_,
            NOW - timedelta(hours=hours_ago),
            json.dumps(data),
        )
        for pos, (type_, data, hours_ago) in enumerate(history, start=1)
    ]


def batches(events: Sequence[LoggedEvent], sizes: Sequence[int]) -> list[Sequence[LoggedEvent]]:
    found, rest = [], events
    for size in sizes:
        found.append(rest[:size])
        rest = rest[size:]
    return [batch for batch in found if batch]


def total(deltas: Sequence[Deltas]) -> list[dict[Any, Any]]:
    sums: list[dict[Any, Any]] = []
    for part in ("events", "movements", "recoveries"):
        of_all: Counter[Any] = Counter()
        for each in deltas:
            for key, numbers in getattr(each, part).items():
                of_all.update({(key, place): number for place, number in enumerate(numbers)})
        sums.append({key: number for key, number in of_all.items() if number})
    return sums


@given(histories, cuts)
def test_batches_add_up_to_the_same_however_they_are_cut(history: History, sizes: list[int]) -> None:
    events = logged(history)
    states: SubscriptionStates = {}
    parts = []
    for batch in batches(events, sizes):
        part = DeltaBatch(batch)
        known = {whose: states[whose] for whose in part.subscriptions() if whose in states}
        parts.append(part.deltas(known))
        states |= parts[-1].states
    whole = DeltaBatch(events).deltas({})
    assert total(parts) == total([whole])
    assert states == whole.states


@given(histories, cuts)
@settings(on_one_database, max_examples=min(100, settings().max_examples // 4))
async def test_every_view_is_what_sql_reckons(
    database: Database, tenant: UUID, superuser: asyncpg.Connection, history: History, sizes: list[int]
) -> None:
    """Each example goes on where the one before was: the longest history is of all of them."""
    pool = database.data(Mode.TEST)
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for type_, data, hours_ago in history:
        await record_event(pool, tenant, (type_, data), max(month, now - timedelta(hours=hours_ago)))
    await sequence_all(pool)
    for size in [*sizes, 1000]:
        await Consumer(pool, ProjectionHandler(Rollups()), size).step()
    assert await differences(superuser) == {}


@given(st.integers(0, MAX_AMOUNT), st.sampled_from(sorted(INTERVALS)))
@on_one_database
async def test_a_price_in_a_month_is_exact_and_rounded_half_up(
    superuser: asyncpg.Connection, amount: int, interval: str
) -> None:
    by_sql = PER_MONTH.format(amount="$1::bigint", interval="$2::text")
    assert monthly(amount, interval) == await superuser.fetchval(f"SELECT {by_sql}", amount, interval)


def test_half_a_kobo_is_rounded_up() -> None:
    assert [monthly(amount, "biannual") for amount in (2, 3, 9)] == [0, 1, 2]
    assert [monthly(12, interval) for interval in INTERVALS] == [8760, 365, 52, 12, 4, 2, 1]
