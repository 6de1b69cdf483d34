"""Renewals: an invoice per period, a charge per invoice, and the period moves when it is paid and not before."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from schema.billing.rows import Interval
from schema.connections.database import Database
from schema.ids import SUBSCRIPTION, format_id
from schema.modes import Mode
from schema.timestamps import iso_millis
from service.billing.catalog import NewPromoCode
from service.billing.checkout import COMPLETE_WITHIN
from service.billing.decisions.periods import boundary
from service.billing.gateway.gateway import Order, Outcome
from tests.support.billing.billing_world import FLAKY_CARD, POOR_CARD, START, Business, business, colleague
from tests.support.event_schemas import assert_conforms

PAID = ["invoice_created", "subscription_payment_success"]
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


async def periods(shop: Business, sub: UUID) -> list[tuple[datetime, datetime]]:
    return [(invoice.period_start, invoice.period_end) for invoice in await shop.invoices(sub)]


async def state(shop: Business, sub: UUID) -> tuple[str, int]:
    row = await shop.subscription(sub)
    return row.status, row.cycles


async def told(shop: Business, what: str) -> Any:
    """This field of the last event."""
    (_, data), *_ = reversed(await shop.events())
    return data[what]


# The beginning


async def test_the_first_charge_activates(shop: Business) -> None:
    sub = await shop.subscribe()
    assert await state(shop, sub) == ("active", 1)
    assert await shop.types() == [
        "subscription_created",
        "invoice_created",
        "subscription_payment_success",
        "subscription_activated",
    ]
    (invoice,) = await shop.invoices(sub)
    assert (invoice.status, invoice.period_start, invoice.attempts) == ("paid", START, 1)


async def test_a_first_charge_that_failed_is_tried_again_at_the_customer_s_wish(shop: Business) -> None:
    """By itself nothing is charged again. The period begins where it was to begin."""
    sub = await shop.subscribe(card=FLAKY_CARD)
    assert await state(shop, sub) == ("incomplete", 0)
    await shop.until(START + timedelta(hours=22))
    assert len(await shop.payments()) == 1
    await shop.subscriptions.collect(sub)
    await shop.settled()
    assert await state(shop, sub) == ("active", 1)
    assert await periods(shop, sub) == [(START, boundary(START, Interval.MONTH, 1))]
    assert (await shop.types())[-3:] == [
        "subscription_payment_failed",
        "subscription_payment_success",
        "subscription_activated",
    ]


async def test_what_nobody_pays_for_within_23_hours_expires_and_its_invoice_is_void(shop: Business) -> None:
    sub = await shop.subscribe(card=POOR_CARD)
    await shop.until(START + COMPLETE_WITHIN - SECOND)
    assert await state(shop, sub) == ("incomplete", 0)
    await shop.until(START + timedelta(hours=23))
    assert await state(shop, sub) == ("incomplete_expired", 0)
    (invoice,) = await shop.invoices(sub)
    assert invoice.status == "void"
    assert await shop.schedule(sub) is None
    assert await told(shop, "change") == "incomplete_expired"


# Periods


async def test_each_interval_is_renewed_when_it_is_over_and_not_a_second_before(shop: Business) -> None:
    for interval in Interval:
        start = shop.clock.time
        sub = await shop.subscribe(await shop.plan(interval=interval))
        end = boundary(start, interval, 1)
        await shop.at(end - SECOND)
        assert await state(shop, sub) == ("active", 1)
        await shop.at(end)
        assert await state(shop, sub) == ("active", 2)
        assert await periods(shop, sub) == [(start, end), (end, boundary(start, interval, 2))]
        assert (await shop.types())[-2:] == PAID
        await shop.subscriptions.cancel(sub)


async def test_the_31st_comes_back_after_a_shorter_month(shop: Business) -> None:
    await shop.at(datetime(2027, 1, 31, 8, tzinfo=UTC))
    sub = await shop.subscribe()
    await shop.until(datetime(2027, 4, 2, tzinfo=UTC))
    ends = [invoice.period_end for invoice in await shop.invoices(sub)]
    assert [(end.month, end.day) for end in ends] == [(2, 28), (3, 31), (4, 30)]


async def test_months_of_downtime_are_caught_up_period_by_period(shop: Business) -> None:
    """A trial among them. Each period has its invoice, one after the other, and each its one charge."""
    sub = await shop.subscribe()
    trial = await shop.subscribe(await shop.plan(trial_days=14))
    now = datetime(2027, 4, 15, tzinfo=UTC)
    await shop.at(now)
    for each, start, so_many in ((sub, START, 5), (trial, START + 14 * DAY, 5)):
        expected = [boundary(start, Interval.MONTH, number) for number in range(so_many + 1)]
        assert await periods(shop, each) == list(pairwise(expected))
        assert await state(shop, each) == ("active", so_many)
        assert expected[-2] <= now < expected[-1]
    assert set(shop.gateway.charged.values()) == {1}
    assert shop.gateway.taken.total() == 10 * 500_000


async def test_two_engines_on_one_database_charge_once_for_each_period(shop: Business) -> None:
    subs = [await shop.subscribe() for _ in range(12)]
    async with colleague(shop) as other:
        for number in range(1, 4):
            shop.clock.advance(boundary(START, Interval.MONTH, number))
            await asyncio.gather(shop.scan(), other.scan())
            await asyncio.gather(shop.scan(), other.scan())  # what one had skipped
    assert [await state(shop, sub) for sub in subs] == [("active", 4)] * 12
    assert set(shop.gateway.charged.values()) == {1}
    assert len(shop.gateway.charged) == 4 * 12


async def test_modes_are_worlds_of_their_own(database: Database) -> None:
    async with business(database) as test, business(database, mode=Mode.LIVE) as live:
        subs = [(shop, await shop.subscribe()) for shop in (test, live)]
        await live.at(START + 40 * DAY)
        assert [await state(shop, sub) for shop, sub in subs] == [("active", 1), ("active", 2)]
        assert (len(test.gateway.charged), len(live.gateway.charged)) == (1, 2)
        assert await test.types() == (await live.types())[:-2]


# Trials


async def test_a_trial_is_charged_when_it_is_over_and_its_period_counts_from_there(shop: Business) -> None:
    sub = await shop.subscribe(await shop.plan(trial_days=62))
    ends = datetime(2027, 1, 31, 10, 30, tzinfo=UTC)
    assert await shop.types() == ["subscription_created", "subscription_updated"]
    assert await told(shop, "change") == "trial_started"
    await shop.until(ends - SECOND)
    assert (await state(shop, sub), shop.gateway.charged.total()) == (("trialing", 0), 0)
    await shop.until(datetime(2027, 4, 1, tzinfo=UTC))
    assert await state(shop, sub) == ("active", 3)
    days = [(end.month, end.day) for _, end in await periods(shop, sub)]
    assert days == [(2, 28), (3, 31), (4, 30)]
    assert (await shop.types())[2:5] == [*PAID, "subscription_activated"]


async def test_a_trial_that_nobody_pays_for_ends_unpaid_and_tells_the_whole_way(shop: Business) -> None:
    plan = await shop.plan(trial_days=7)
    sub = await shop.subscribe(plan, POOR_CARD)
    await shop.until(START + timedelta(days=75))
    assert await state(shop, sub) == ("unpaid", 0)
    for type_, data in await shop.events():
        assert_conforms(type_, data)


# Ends


async def test_a_cancellation_at_the_period_s_end_lets_it_run_until_then(shop: Business) -> None:
    """Of a trial too. What is taken back before is renewed."""
    active, kept = await shop.subscribe(), await shop.subscribe()
    trial = await shop.subscribe(await shop.plan(trial_days=14))
    for sub in (active, kept, trial):
        await shop.subscriptions.cancel(sub, at_period_end=True)
        assert await told(shop, "change") == "cancellation_scheduled"
    await shop.subscriptions.keep(kept)
    assert await told(shop, "change") == "cancellation_withdrawn"
    await shop.until(START + 14 * DAY - SECOND)
    assert await state(shop, trial) == ("trialing", 0)
    await shop.until(START + 14 * DAY)
    assert await state(shop, trial) == ("canceled", 0)
    assert await told(shop, "reason") == "period_end"
    await shop.until(START + 31 * DAY)
    assert await state(shop, active) == ("canceled", 1)
    assert await state(shop, kept) == ("active", 2)
    assert shop.gateway.taken.total() == 3 * 500_000


async def test_a_subscription_with_a_last_cycle_expires_when_that_is_used_up(shop: Business) -> None:
    plan = await shop.plan(interval=Interval.WEEK, max_cycles=3)
    sub, longer, endless = [await shop.subscribe(plan) for _ in range(3)]
    await shop.subscriptions.limit(longer, 4)
    await shop.subscriptions.limit(endless, None)
    await shop.until(START + 21 * DAY - SECOND)
    assert await state(shop, sub) == ("active", 3)
    await shop.until(START + 35 * DAY)
    assert await state(shop, sub) == ("expired", 3)
    assert await state(shop, longer) == ("expired", 4)
    assert await state(shop, endless) == ("active", 6)
    assert (await shop.subscription(sub)).ended_at == START + 21 * DAY


async def test_who_is_blacklisted_is_charged_no_more_and_it_ends_when_it_is_due(shop: Business) -> None:
    """Active, on trial or in recovery."""
    active, trial = await shop.subscribe(), await shop.subscribe(await shop.plan(trial_days=30))
    late = await shop.subscribe(await shop.plan(trial_days=7), POOR_CARD)
    await shop.until(START + 20 * DAY)
    assert await state(shop, late) == ("past_due", 0)
    charged = len(shop.gateway.charged)
    for sub in (active, trial, late):
        await shop.catalog.blacklist((await shop.subscription(sub)).customer_id, "chargebacks")
    await shop.until(START + 60 * DAY)
    assert [await state(shop, sub) for sub in (active, trial, late)] == [
        ("canceled", 1),
        ("canceled", 0),
        ("canceled", 0),
    ]
    assert len(shop.gateway.charged) == charged
    reasons = [data["reason"] for _, data in await shop.events("subscription_cancelled")]
    assert reasons == ["fraud"] * 3
    (owed,) = await shop.invoices(late)
    schedule = await shop.schedule(late)
    assert schedule is not None
    assert (owed.status, schedule.state, schedule.next_attempt_at) == ("void", "cancelled", None)


# Pauses


async def test_who_resumes_before_the_period_is_over_uses_up_what_is_left(shop: Business) -> None:
    sub = await shop.subscribe()
    end = (await shop.subscription(sub)).current_period_end
    await shop.subscriptions.pause(sub)
    await shop.until(end - 5 * DAY)
    await shop.subscriptions.resume(sub)
    await shop.until(end - SECOND)
    assert await state(shop, sub) == ("active", 1)
    await shop.until(end)
    assert (await periods(shop, sub))[1] == (end, boundary(START, Interval.MONTH, 2))


async def test_who_resumes_later_is_charged_from_then_and_never_for_the_pause(shop: Business) -> None:
    sub = await shop.subscribe()
    await shop.subscriptions.pause(sub)
    await shop.until(START + 200 * DAY)
    assert await state(shop, sub) == ("paused", 1)
    assert len(shop.gateway.charged) == 1
    resumed = shop.clock.time
    await shop.subscriptions.resume(sub)
    await shop.scan()
    assert await state(shop, sub) == ("active", 2)
    assert (await periods(shop, sub))[1:] == [(resumed, boundary(resumed, Interval.MONTH, 1))]
    await shop.until(resumed + 70 * DAY)
    assert (await periods(shop, sub))[-1][1] == boundary(resumed, Interval.MONTH, 3)
    assert (await shop.types())[4:8] == ["subscription_paused", "subscription_resumed", *PAID]


# Plans, codes and currencies


async def test_another_plan_is_charged_from_the_next_invoice_on(shop: Business) -> None:
    """In another interval too, of an active subscription as of a trial."""
    monthly, dearer = await shop.plan(500_000), await shop.plan(900_000)
    weekly = await shop.plan(150_000, Interval.WEEK, trial_days=10)
    same, other, trial = (
        await shop.subscribe(monthly),
        await shop.subscribe(monthly),
        await shop.subscribe(weekly),
    )
    await shop.subscriptions.change_plan(same, dearer.id)
    await shop.subscriptions.change_plan(other, weekly.id)
    await shop.subscriptions.change_plan(trial, monthly.id)
    assert len(shop.gateway.charged) == 2, "there is no proration"
    end = boundary(START, Interval.MONTH, 1)
    await shop.until(end + 10 * DAY)
    assert [invoice.amount for invoice in await shop.invoices(same)] == [500_000, 900_000]
    assert (await periods(shop, same))[1] == (end, boundary(START, Interval.MONTH, 2))
    assert [invoice.amount for invoice in await shop.invoices(other)] == [500_000, 150_000, 150_000]
    assert (await periods(shop, other))[1:] == [(end, end + 7 * DAY), (end + 7 * DAY, end + 14 * DAY)]
    begun = START + 10 * DAY
    assert (await periods(shop, trial))[0] == (begun, boundary(begun, Interval.MONTH, 1))


@pytest.mark.parametrize(
    ("code", "amounts"),
    [
        (NewPromoCode("HALF", percent_off=50), [250_000, 500_000]),
        (NewPromoCode("GIFT", percent_off=100), [0, 500_000]),
        (NewPromoCode("MUCH", amount_off=900_000), [0, 500_000]),
    ],
    ids=lambda value: value.code if isinstance(value, NewPromoCode) else "",
)
async def test_a_promo_code_is_for_the_first_invoice_and_no_other(
    shop: Business, code: NewPromoCode, amounts: list[int]
) -> None:
    """What it takes off whole is paid without asking anybody. A trial's first invoice is the one after it."""
    await shop.catalog.create_promo_code(code)
    sub = await shop.subscribe(promo=code.code.lower())
    trial = await shop.subscribe(await shop.plan(trial_days=7), promo=code.code)
    await shop.until(START + 40 * DAY)
    for each in (sub, trial):
        invoices = await shop.invoices(each)
        assert [invoice.amount for invoice in invoices] == amounts
        assert [invoice.discount for invoice in invoices] == [500_000 - amount for amount in amounts]
        assert await state(shop, each) == ("active", 2)
    assert len(shop.gateway.charged) == 2 * sum(amount > 0 for amount in amounts)
    assert shop.gateway.taken.total() == 2 * sum(amounts)


async def test_a_plan_may_be_priced_in_one_currency_and_charged_in_another(shop: Business) -> None:
    plan = await shop.plan(1_999, currency="USD", charge_currency="NGN", fx_rate=Decimal("1600.5"))
    sub = await shop.subscribe(plan)
    (invoice,) = await shop.invoices(sub)
    assert (invoice.amount, invoice.currency) == (3_199_400, "NGN")  # 3,199,399.5
    (order,) = shop.gateway.orders.values()
    assert (order.amount, order.currency) == (3_199_400, "NGN")
    assert await told(shop, "amount") == 3_199_400


# What fails


async def test_the_period_does_not_move_until_it_is_paid_and_no_time_past_due_is_charged(
    shop: Business,
) -> None:
    """Of a daily subscription that is recovered three weeks later, the days between are nobody's."""
    money = False

    def answer(_order: Order) -> Outcome:
        return Outcome(None if money else "insufficient_funds")

    sub = await shop.subscribe(await shop.plan(30_000, Interval.DAY))
    shop.gateway.answers = answer
    before = await shop.subscription(sub)
    await shop.until(START + 27 * DAY)
    row = await shop.subscription(sub)
    assert (row.status, row.current_period_end, row.cycles) == ("past_due", before.current_period_end, 1)
    money = True
    await shop.until(datetime(2026, 12, 28, 9, tzinfo=UTC))
    row = await shop.subscription(sub)
    payday = datetime(2026, 12, 28, 9, tzinfo=UTC)
    assert (row.status, row.cycles) == ("active", 2)
    assert (row.current_period_start, row.current_period_end) == (payday, payday + DAY)
    await shop.until(payday + DAY)
    assert await periods(shop, sub) == [
        (START, START + DAY),
        (START + DAY, START + 2 * DAY),
        (payday + DAY, payday + 2 * DAY),
    ]
    assert shop.gateway.taken.total() == 3 * 30_000


async def test_a_promo_code_that_expires_during_the_trial_is_kept_for_the_first_invoice(
    shop: Business,
) -> None:
    expires = START + timedelta(days=3)
    await shop.catalog.create_promo_code(NewPromoCode("EARLY", percent_off=50, expires_at=expires))
    sub = await shop.subscribe(await shop.plan(500_000, trial_days=7), promo="EARLY")
    await shop.after(days=7)
    assert [(each.amount, each.discount) for each in await shop.invoices(sub)] == [(250_000, 250_000)]


# What is written


async def test_amounts_are_whole_kobo_from_the_plan_to_the_event(shop: Business) -> None:
    sub = await shop.subscribe(await shop.plan(500_000))
    (invoice,) = await shop.invoices(sub)
    (payment,) = await shop.payments()
    recorded = [data["amount"] for _, data in await shop.events()]
    for amount in (invoice.amount, payment.amount, *recorded, *shop.gateway.taken.values()):
        assert type(amount) is int
        assert amount == 500_000


async def test_an_invoice_s_key_names_its_subscription_and_period(shop: Business) -> None:
    sub = await shop.subscribe()
    await shop.after(days=31)
    invoices = await shop.invoices(sub)
    assert len(invoices) == 2
    for invoice in invoices:
        start = iso_millis(invoice.period_start)
        assert invoice.idempotency_key == f"renewal_{format_id(SUBSCRIPTION, sub)}_{start}"
