"""Renewals create one invoice per period and one charge per invoice, and the period moves only after payment."""

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
from tests.support.billing.billing_world import (
    FLAKY_CARD,
    POOR_CARD,
    START,
    TenantBilling,
    second_worker,
    tenant_billing,
)
from tests.support.event_schemas import assert_conforms

PAID = ["invoice_created", "subscription_payment_success"]
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


async def periods(billing: TenantBilling, sub: UUID) -> list[tuple[datetime, datetime]]:
    return [(invoice.period_start, invoice.period_end) for invoice in await billing.invoices(sub)]


async def state(billing: TenantBilling, sub: UUID) -> tuple[str, int]:
    row = await billing.subscription(sub)
    return row.status, row.cycles


async def event_value(billing: TenantBilling, what: str) -> Any:
    """This field of the last event."""
    (_, data), *_ = reversed(await billing.events())
    return data[what]


# The beginning


async def test_the_first_charge_activates(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    assert await state(billing, sub) == ("active", 1)
    assert await billing.types() == [
        "subscription_created",
        "invoice_created",
        "subscription_payment_success",
        "subscription_activated",
    ]
    (invoice,) = await billing.invoices(sub)
    assert (invoice.status, invoice.period_start, invoice.attempts) == ("paid", START, 1)


async def test_a_failed_first_charge_is_retried_at_the_customer_s_request(
    billing: TenantBilling,
) -> None:
    """No charge is repeated automatically. The period begins at its original start."""
    sub = await billing.subscribe(card=FLAKY_CARD)
    assert await state(billing, sub) == ("incomplete", 0)
    await billing.until(START + timedelta(hours=22))
    assert len(await billing.payments()) == 1
    await billing.subscriptions.collect(sub)
    await billing.settled()
    assert await state(billing, sub) == ("active", 1)
    assert await periods(billing, sub) == [(START, boundary(START, Interval.MONTH, 1))]
    assert (await billing.types())[-3:] == [
        "subscription_payment_failed",
        "subscription_payment_success",
        "subscription_activated",
    ]


async def test_an_unpaid_first_invoice_expires_after_23_hours(
    billing: TenantBilling,
) -> None:
    sub = await billing.subscribe(card=POOR_CARD)
    await billing.until(START + COMPLETE_WITHIN - SECOND)
    assert await state(billing, sub) == ("incomplete", 0)
    await billing.until(START + timedelta(hours=23))
    assert await state(billing, sub) == ("incomplete_expired", 0)
    (invoice,) = await billing.invoices(sub)
    assert invoice.status == "void"
    assert await billing.schedule(sub) is None
    assert await event_value(billing, "change") == "incomplete_expired"


# Periods


async def test_each_interval_is_renewed_exactly_at_its_end(
    billing: TenantBilling,
) -> None:
    for interval in Interval:
        start = billing.clock.time
        sub = await billing.subscribe(await billing.plan(interval=interval))
        end = boundary(start, interval, 1)
        await billing.at(end - SECOND)
        assert await state(billing, sub) == ("active", 1)
        await billing.at(end)
        assert await state(billing, sub) == ("active", 2)
        assert await periods(billing, sub) == [(start, end), (end, boundary(start, interval, 2))]
        assert (await billing.types())[-2:] == PAID
        await billing.subscriptions.cancel(sub)


async def test_the_31st_comes_back_after_a_shorter_month(billing: TenantBilling) -> None:
    await billing.at(datetime(2027, 1, 31, 8, tzinfo=UTC))
    sub = await billing.subscribe()
    await billing.until(datetime(2027, 4, 2, tzinfo=UTC))
    ends = [invoice.period_end for invoice in await billing.invoices(sub)]
    assert [(end.month, end.day) for end in ends] == [(2, 28), (3, 31), (4, 30)]


async def test_months_of_downtime_are_caught_up_period_by_period(billing: TenantBilling) -> None:
    """The cases include a trial. Each period has one invoice and one charge, in order."""
    sub = await billing.subscribe()
    trial = await billing.subscribe(await billing.plan(trial_days=14))
    now = datetime(2027, 4, 15, tzinfo=UTC)
    await billing.at(now)
    for each, start, so_many in ((sub, START, 5), (trial, START + 14 * DAY, 5)):
        expected = [boundary(start, Interval.MONTH, number) for number in range(so_many + 1)]
        assert await periods(billing, each) == list(pairwise(expected))
        assert await state(billing, each) == ("active", so_many)
        assert expected[-2] <= now < expected[-1]
    assert set(billing.gateway.charged.values()) == {1}
    assert billing.gateway.taken.total() == 10 * 500_000


async def test_two_engines_on_one_database_charge_once_for_each_period(billing: TenantBilling) -> None:
    subs = [await billing.subscribe() for _ in range(12)]
    async with second_worker(billing) as other:
        for number in range(1, 4):
            billing.clock.advance(boundary(START, Interval.MONTH, number))
            await asyncio.gather(billing.scan(), other.scan())
            await asyncio.gather(billing.scan(), other.scan())  # what one had skipped
    assert [await state(billing, sub) for sub in subs] == [("active", 4)] * 12
    assert set(billing.gateway.charged.values()) == {1}
    assert len(billing.gateway.charged) == 4 * 12


async def test_modes_are_independent(database: Database) -> None:
    async with tenant_billing(database) as test, tenant_billing(database, mode=Mode.LIVE) as live:
        subs = [(billing, await billing.subscribe()) for billing in (test, live)]
        await live.at(START + 40 * DAY)
        assert [await state(billing, sub) for billing, sub in subs] == [("active", 1), ("active", 2)]
        assert (len(test.gateway.charged), len(live.gateway.charged)) == (1, 2)
        assert await test.types() == (await live.types())[:-2]


# Trials


async def test_a_trial_is_charged_at_its_end_and_anchored_there(
    billing: TenantBilling,
) -> None:
    sub = await billing.subscribe(await billing.plan(trial_days=62))
    ends = datetime(2027, 1, 31, 10, 30, tzinfo=UTC)
    assert await billing.types() == ["subscription_created", "subscription_updated"]
    assert await event_value(billing, "change") == "trial_started"
    await billing.until(ends - SECOND)
    assert (await state(billing, sub), billing.gateway.charged.total()) == (("trialing", 0), 0)
    await billing.until(datetime(2027, 4, 1, tzinfo=UTC))
    assert await state(billing, sub) == ("active", 3)
    days = [(end.month, end.day) for _, end in await periods(billing, sub)]
    assert days == [(2, 28), (3, 31), (4, 30)]
    assert (await billing.types())[2:5] == [*PAID, "subscription_activated"]


async def test_an_unpaid_trial_ends_unpaid_with_every_event(
    billing: TenantBilling,
) -> None:
    plan = await billing.plan(trial_days=7)
    sub = await billing.subscribe(plan, POOR_CARD)
    await billing.until(START + timedelta(days=75))
    assert await state(billing, sub) == ("unpaid", 0)
    for type_, data in await billing.events():
        assert_conforms(type_, data)


# Ends


async def test_a_cancellation_at_period_end_keeps_it_active_until_then(billing: TenantBilling) -> None:
    """This applies to trials too. An undone cancellation is renewed."""
    active, kept = await billing.subscribe(), await billing.subscribe()
    trial = await billing.subscribe(await billing.plan(trial_days=14))
    for sub in (active, kept, trial):
        await billing.subscriptions.cancel(sub, at_period_end=True)
        assert await event_value(billing, "change") == "cancellation_scheduled"
    await billing.subscriptions.keep(kept)
    assert await event_value(billing, "change") == "cancellation_withdrawn"
    await billing.until(START + 14 * DAY - SECOND)
    assert await state(billing, trial) == ("trialing", 0)
    await billing.until(START + 14 * DAY)
    assert await state(billing, trial) == ("canceled", 0)
    assert await event_value(billing, "reason") == "period_end"
    await billing.until(START + 31 * DAY)
    assert await state(billing, active) == ("canceled", 1)
    assert await state(billing, kept) == ("active", 2)
    assert billing.gateway.taken.total() == 3 * 500_000


async def test_a_subscription_expires_after_its_last_cycle(billing: TenantBilling) -> None:
    plan = await billing.plan(interval=Interval.WEEK, max_cycles=3)
    sub, longer, endless = [await billing.subscribe(plan) for _ in range(3)]
    await billing.subscriptions.limit(longer, 4)
    await billing.subscriptions.limit(endless, None)
    await billing.until(START + 21 * DAY - SECOND)
    assert await state(billing, sub) == ("active", 3)
    await billing.until(START + 35 * DAY)
    assert await state(billing, sub) == ("expired", 3)
    assert await state(billing, longer) == ("expired", 4)
    assert await state(billing, endless) == ("active", 6)
    assert (await billing.subscription(sub)).ended_at == START + 21 * DAY


async def test_a_blacklisted_customer_is_not_charged_and_ends_when_due(
    billing: TenantBilling,
) -> None:
    """The cases are active, trialing and in recovery."""
    active, trial = await billing.subscribe(), await billing.subscribe(await billing.plan(trial_days=30))
    late = await billing.subscribe(await billing.plan(trial_days=7), POOR_CARD)
    await billing.until(START + 20 * DAY)
    assert await state(billing, late) == ("past_due", 0)
    charged = len(billing.gateway.charged)
    for sub in (active, trial, late):
        await billing.catalog.blacklist((await billing.subscription(sub)).customer_id, "chargebacks")
    await billing.until(START + 60 * DAY)
    assert [await state(billing, sub) for sub in (active, trial, late)] == [
        ("canceled", 1),
        ("canceled", 0),
        ("canceled", 0),
    ]
    assert len(billing.gateway.charged) == charged
    reasons = [data["reason"] for _, data in await billing.events("subscription_cancelled")]
    assert reasons == ["fraud"] * 3
    (owed,) = await billing.invoices(late)
    schedule = await billing.schedule(late)
    assert schedule is not None
    assert (owed.status, schedule.state, schedule.next_attempt_at) == ("void", "cancelled", None)


# Pauses


async def test_resuming_within_the_period_uses_the_rest_of_it(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    end = (await billing.subscription(sub)).current_period_end
    await billing.subscriptions.pause(sub)
    await billing.until(end - 5 * DAY)
    await billing.subscriptions.resume(sub)
    await billing.until(end - SECOND)
    assert await state(billing, sub) == ("active", 1)
    await billing.until(end)
    assert (await periods(billing, sub))[1] == (end, boundary(START, Interval.MONTH, 2))


async def test_resuming_later_charges_from_then_not_for_the_pause(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    await billing.subscriptions.pause(sub)
    await billing.until(START + 200 * DAY)
    assert await state(billing, sub) == ("paused", 1)
    assert len(billing.gateway.charged) == 1
    resumed = billing.clock.time
    await billing.subscriptions.resume(sub)
    await billing.scan()
    assert await state(billing, sub) == ("active", 2)
    assert (await periods(billing, sub))[1:] == [(resumed, boundary(resumed, Interval.MONTH, 1))]
    await billing.until(resumed + 70 * DAY)
    assert (await periods(billing, sub))[-1][1] == boundary(resumed, Interval.MONTH, 3)
    assert (await billing.types())[4:8] == ["subscription_paused", "subscription_resumed", *PAID]


# Plans, codes and currencies


async def test_another_plan_is_charged_from_the_next_invoice_on(billing: TenantBilling) -> None:
    """The new plan may have another interval, for active and trialing subscriptions."""
    monthly, dearer = await billing.plan(500_000), await billing.plan(900_000)
    weekly = await billing.plan(150_000, Interval.WEEK, trial_days=10)
    same, other, trial = (
        await billing.subscribe(monthly),
        await billing.subscribe(monthly),
        await billing.subscribe(weekly),
    )
    await billing.subscriptions.change_plan(same, dearer.id)
    await billing.subscriptions.change_plan(other, weekly.id)
    await billing.subscriptions.change_plan(trial, monthly.id)
    assert len(billing.gateway.charged) == 2, "there is no proration"
    end = boundary(START, Interval.MONTH, 1)
    await billing.until(end + 10 * DAY)
    assert [invoice.amount for invoice in await billing.invoices(same)] == [500_000, 900_000]
    assert (await periods(billing, same))[1] == (end, boundary(START, Interval.MONTH, 2))
    assert [invoice.amount for invoice in await billing.invoices(other)] == [500_000, 150_000, 150_000]
    assert (await periods(billing, other))[1:] == [(end, end + 7 * DAY), (end + 7 * DAY, end + 14 * DAY)]
    begun = START + 10 * DAY
    assert (await periods(billing, trial))[0] == (begun, boundary(begun, Interval.MONTH, 1))


@pytest.mark.parametrize(
    ("code", "amounts"),
    [
        (NewPromoCode("HALF", percent_off=50), [250_000, 500_000]),
        (NewPromoCode("GIFT", percent_off=100), [0, 500_000]),
        (NewPromoCode("MUCH", amount_off=900_000), [0, 500_000]),
    ],
    ids=lambda value: value.code if isinstance(value, NewPromoCode) else "",
)
async def test_a_promo_code_applies_only_to_the_first_invoice(
    billing: TenantBilling, code: NewPromoCode, amounts: list[int]
) -> None:
    """A full discount is paid without a charge. A trial's first invoice is the one after the trial."""
    await billing.catalog.create_promo_code(code)
    sub = await billing.subscribe(promo=code.code.lower())
    trial = await billing.subscribe(await billing.plan(trial_days=7), promo=code.code)
    await billing.until(START + 40 * DAY)
    for each in (sub, trial):
        invoices = await billing.invoices(each)
        assert [invoice.amount for invoice in invoices] == amounts
        assert [invoice.discount for invoice in invoices] == [500_000 - amount for amount in amounts]
        assert await state(billing, each) == ("active", 2)
    assert len(billing.gateway.charged) == 2 * sum(amount > 0 for amount in amounts)
    assert billing.gateway.taken.total() == 2 * sum(amounts)


async def test_a_plan_can_be_charged_in_another_currency(billing: TenantBilling) -> None:
    plan = await billing.plan(1_999, currency="USD", charge_currency="NGN", fx_rate=Decimal("1600.5"))
    sub = await billing.subscribe(plan)
    (invoice,) = await billing.invoices(sub)
    assert (invoice.amount, invoice.currency) == (3_199_400, "NGN")  # 3,199,399.5
    (order,) = billing.gateway.orders.values()
    assert (order.amount, order.currency) == (3_199_400, "NGN")
    assert await event_value(billing, "amount") == 3_199_400


# What fails


async def test_time_past_due_is_not_charged(
    billing: TenantBilling,
) -> None:
    """A daily subscription that recovers three weeks later does not pay for the days between."""
    money = False

    def answer(_order: Order) -> Outcome:
        return Outcome(None if money else "insufficient_funds")

    sub = await billing.subscribe(await billing.plan(30_000, Interval.DAY))
    billing.gateway.answers = answer
    before = await billing.subscription(sub)
    await billing.until(START + 27 * DAY)
    row = await billing.subscription(sub)
    assert (row.status, row.current_period_end, row.cycles) == ("past_due", before.current_period_end, 1)
    money = True
    await billing.until(datetime(2026, 12, 28, 9, tzinfo=UTC))
    row = await billing.subscription(sub)
    payday = datetime(2026, 12, 28, 9, tzinfo=UTC)
    assert (row.status, row.cycles) == ("active", 2)
    assert (row.current_period_start, row.current_period_end) == (payday, payday + DAY)
    await billing.until(payday + DAY)
    assert await periods(billing, sub) == [
        (START, START + DAY),
        (START + DAY, START + 2 * DAY),
        (payday + DAY, payday + 2 * DAY),
    ]
    assert billing.gateway.taken.total() == 3 * 30_000


async def test_a_promo_code_outlives_its_expiry_during_a_trial(
    billing: TenantBilling,
) -> None:
    expires = START + timedelta(days=3)
    await billing.catalog.create_promo_code(NewPromoCode("EARLY", percent_off=50, expires_at=expires))
    sub = await billing.subscribe(await billing.plan(500_000, trial_days=7), promo="EARLY")
    await billing.after(days=7)
    assert [(each.amount, each.discount) for each in await billing.invoices(sub)] == [(250_000, 250_000)]


# What is written


async def test_amounts_are_whole_kobo_from_the_plan_to_the_event(billing: TenantBilling) -> None:
    sub = await billing.subscribe(await billing.plan(500_000))
    (invoice,) = await billing.invoices(sub)
    (payment,) = await billing.payments()
    recorded = [data["amount"] for _, data in await billing.events()]
    for amount in (invoice.amount, payment.amount, *recorded, *billing.gateway.taken.values()):
        assert type(amount) is int
        assert amount == 500_000


async def test_an_invoice_s_key_names_its_subscription_and_period(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    await billing.after(days=31)
    invoices = await billing.invoices(sub)
    assert len(invoices) == 2
    for invoice in invoices:
        start = iso_millis(invoice.period_start)
        assert invoice.idempotency_key == f"renewal_{format_id(SUBSCRIPTION, sub)}_{start}"
