"""Recovery on a real database follows the schedule for each failure and never charges twice."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from schema.billing.rows import DunningSchedule, DunningState, Interval, Rail, Status
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.periods import boundary
from service.billing.gateway.gateway import Order, Outcome
from tests.support.billing.billing_world import (
    EXPIRED_CARD,
    GOOD_CARD,
    REFUSED_CARD,
    START,
    STOLEN_CARD,
    UNSUPPORTED_CARD,
    TenantBilling,
    second_worker,
    tenant_billing,
)

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
TRIAL_DAYS = 3
DUE = START + TRIAL_DAYS * DAY
"""The 3rd of December, 10:30: payday for the last time this month, so that nothing waits but what is to wait.
"""
PAYDAY = datetime(2026, 12, 28, 9, tzinfo=UTC)
PAST_DUE = ["subscription_payment_failed", "subscription_past_due"]
RECOVERED = ["subscription_payment_recovered", "subscription_recovered"]


async def owing(billing: TenantBilling, card: str = GOOD_CARD) -> UUID:
    """A subscription whose trial is just over, with this card."""
    sub = await billing.subscribe(await billing.plan(trial_days=TRIAL_DAYS), card)
    await billing.until(DUE)
    return sub


def answering(billing: TenantBilling, *failures: str | None) -> None:
    """One charge after the other; then they work."""
    left = list(failures)

    def answer(_order: Order) -> Outcome:
        return Outcome(left.pop(0) if left else None)

    billing.gateway.answers = answer


async def memory(billing: TenantBilling, sub: UUID) -> DunningSchedule:
    schedule = await billing.schedule(sub)
    assert schedule is not None
    return schedule


async def status(billing: TenantBilling, sub: UUID) -> str:
    return str((await billing.subscription(sub)).status)


async def charges(billing: TenantBilling) -> list[tuple[timedelta, str]]:
    """How long after the first, and over which rail."""
    made = await billing.payments()
    return [(payment.created_at - made[0].created_at, payment.rail) for payment in made]


def cards(*hours: float) -> list[tuple[timedelta, str]]:
    return [(timedelta(hours=hours), "card") for hours in hours]


# Each failure's way


async def test_a_temporary_failure_is_retried_on_schedule_until_unpaid(
    billing: TenantBilling,
) -> None:
    answering(billing, *["timeout"] * 6)
    sub = await owing(billing)
    schedule = await memory(billing, sub)
    assert (schedule.state, schedule.attempts, schedule.last_action) == ("waiting", 1, "retry")
    assert schedule.last_reason == "timeout (68): recovery charge 2 of 5 follows in 24 h."
    assert schedule.next_attempt_at == DUE + DAY
    await billing.until(DUE + 30 * DAY)
    assert await charges(billing) == cards(0, 0, 24, 96, 216, 384)
    assert [payment.number for payment in await billing.payments()] == [1, 2, 3, 4, 5, 6]
    (invoice,) = await billing.invoices(sub)
    assert (await status(billing, sub), invoice.status, invoice.attempts) == ("unpaid", "uncollectible", 6)
    schedule = await memory(billing, sub)
    assert (schedule.state, schedule.attempts, schedule.next_attempt_at) == ("exhausted", 5, None)
    assert (schedule.last_action, schedule.failure_code) == ("exhaust", "timeout")
    assert schedule.last_reason == "5 recovery charges have failed, the last with timeout (68)."
    assert (await billing.types())[-2:] == ["subscription_payment_failed", "subscription_unpaid"]


async def test_a_later_success_recovers_the_invoice_s_period(
    billing: TenantBilling,
) -> None:
    answering(billing, "processor_error", "processor_error", "processor_error")
    sub = await owing(billing)
    await billing.until(DUE + 5 * DAY)
    row, schedule = await billing.subscription(sub), await memory(billing, sub)
    assert (row.status, row.current_period_start, row.cycles) == ("active", DUE, 1)
    assert (schedule.state, schedule.attempts, schedule.in_flight) == ("recovered", 3, False)
    assert await charges(billing) == cards(0, 0, 24, 96)
    payments = await billing.events("subscription_payment_failed", "subscription_payment_recovered")
    assert [data["attempt"] for _, data in payments] == [1, 2, 3, 4]
    assert (await billing.types())[3:] == [*PAST_DUE, *["subscription_payment_failed"] * 2, *RECOVERED]


async def test_insufficient_funds_wait_for_payday_if_enabled(billing: TenantBilling) -> None:
    """If payday is disabled or is today, the usual waits apply."""
    hurried = await billing.another()
    await hurried.catalog.set_up(payday_aware=False, rails=list(Rail))
    billing.gateway.answers = lambda order: Outcome("51") if order.at < PAYDAY else None
    on_payday = await owing(billing)
    patient = await billing.subscribe(await billing.plan(trial_days=7))
    impatient = await hurried.subscribe(await hurried.plan(trial_days=7))
    await billing.until(DUE + 7 * DAY)
    assert (await memory(billing, patient)).next_attempt_at == PAYDAY
    assert (await memory(hurried, impatient)).next_attempt_at == DUE + 8 * DAY
    paid = [payment for payment in await billing.payments() if payment.subscription_id == on_payday]
    assert [payment.created_at for payment in paid] == [DUE, DUE, DUE + DAY], (
        "the 3rd is payday, the 4th is not"
    )
    assert (await memory(billing, on_payday)).next_attempt_at == PAYDAY
    await billing.until(PAYDAY)
    assert {await status(billing, sub) for sub in (on_payday, patient)} == {"active"}
    assert await status(hurried, impatient) == "unpaid", "five charges were over by then"


@pytest.mark.parametrize(
    ("card", "tries", "over"),
    [(UNSUPPORTED_CARD, ["card", "ussd"], "57"), (REFUSED_CARD, ["card", "card", "ussd"], "05")],
    ids=["unsupported", "refused"],
)
async def test_a_card_failure_moves_to_the_next_rail_immediately(
    billing: TenantBilling, card: str, tries: list[str], over: str
) -> None:
    sub = await owing(billing, card)
    assert await charges(billing) == [(timedelta(0), rail) for rail in tries]
    schedule = await memory(billing, sub)
    assert (schedule.state, schedule.rail, schedule.last_action) == ("recovered", "ussd", "switch_rail")
    assert f"({over}): recovery charge {len(tries) - 1} of 5 goes over ussd instead." in schedule.last_reason
    assert await status(billing, sub) == "active"


async def test_only_the_tenant_s_rails_are_tried(billing: TenantBilling) -> None:
    """A rail that the tenant disables during recovery is skipped."""
    await billing.catalog.set_up(payday_aware=True, rails=[Rail.DIRECT_DEBIT, Rail.CARD, Rail.TRANSFER])
    answering(billing, "57", "96", "96", "57")
    sub = await owing(billing)
    assert [rail for _, rail in await charges(billing)] == ["card", "transfer"]
    assert (await memory(billing, sub)).rail == "transfer"
    await billing.catalog.set_up(payday_aware=True, rails=[Rail.CARD, Rail.DIRECT_DEBIT])
    await billing.until(DUE + 30 * DAY)
    made = await charges(billing)
    assert [rail for _, rail in made] == ["card", "transfer", "direct_debit", "direct_debit"]
    assert await status(billing, sub) == "unpaid"
    said = (await memory(billing, sub)).last_reason
    assert said == "card_not_supported (57), and no rail is left after direct_debit."


# Cards that would fail again


@pytest.mark.parametrize("card", [EXPIRED_CARD, STOLEN_CARD], ids=["expired", "stolen"])
async def test_a_replacement_card_is_requested_and_charged(billing: TenantBilling, card: str) -> None:
    sub = await owing(billing, card)
    schedule = await memory(billing, sub)
    assert (schedule.state, schedule.next_attempt_at) == ("awaiting_card", DUE + 7 * DAY)
    assert (await billing.types())[3:] == [*PAST_DUE, "subscription_payment_action_required"]
    await billing.until(DUE + 6 * DAY)
    assert len(await billing.payments()) == 1, "the same card would fail again"
    await billing.subscriptions.replace_payment_method(sub, await billing.card())
    await billing.scan()
    assert (await status(billing, sub), (await memory(billing, sub)).state) == ("active", "recovered")
    assert (await billing.types())[6:] == ["subscription_updated", *RECOVERED]


async def test_no_replacement_card_within_seven_days_leaves_it_unpaid(billing: TenantBilling) -> None:
    """A later card with a requested charge recovers it."""
    sub = await owing(billing, STOLEN_CARD)
    await billing.until(DUE + 7 * DAY - SECOND)
    assert await status(billing, sub) == "past_due"
    await billing.until(DUE + 7 * DAY)
    assert await status(billing, sub) == "unpaid"
    schedule = await memory(billing, sub)
    said = "stolen_card: the card was not replaced within 7 days, after 0 recovery charges."
    assert (schedule.state, schedule.last_reason) == ("exhausted", said)
    await billing.until(DUE + 20 * DAY)
    await billing.subscriptions.replace_payment_method(sub, await billing.card())
    await billing.scan()
    assert len(await billing.payments()) == 1, "by itself nothing is charged"
    await billing.subscriptions.collect(sub)
    await billing.settled()
    assert (await status(billing, sub), (await memory(billing, sub)).state) == ("active", "recovered")
    (invoice,) = await billing.invoices(sub)
    assert (invoice.status, invoice.attempts) == ("paid", 2)
    assert (await billing.types())[-2:] == RECOVERED


async def test_a_second_bad_card_is_replaced_once_more_then_ends(
    billing: TenantBilling,
) -> None:
    sub = await owing(billing, EXPIRED_CARD)
    for charge in range(1, 6):
        await billing.subscriptions.replace_payment_method(sub, await billing.card(EXPIRED_CARD))
        await billing.scan()
        assert (await memory(billing, sub)).attempts == charge
    assert await status(billing, sub) == "unpaid"


async def test_a_failed_collection_leaves_it_unpaid_with_an_event(billing: TenantBilling) -> None:
    answering(billing, *["96"] * 6, "51")
    sub = await owing(billing)
    await billing.until(DUE + 30 * DAY)
    await billing.subscriptions.collect(sub)
    await billing.settled()
    assert await status(billing, sub) == "unpaid"
    _, failed = (await billing.events())[-1]
    assert (failed["failureCode"], failed["nextAction"], failed["attempt"]) == ("insufficient_funds", None, 7)
    await billing.subscriptions.collect(sub)
    await billing.settled()
    recovered = (await billing.events("subscription_payment_recovered"))[0][1]
    assert recovered["failureCode"] == "insufficient_funds", "of the charge before"


# One of everything


async def test_only_failing_invoices_have_a_schedule(billing: TenantBilling) -> None:
    answering(billing, "96", None, None, "57", None)
    sub = await owing(billing)
    await billing.until(boundary(DUE, Interval.MONTH, 2))
    invoices = await billing.invoices(sub)
    rows = await billing.pool.fetch("SELECT invoice_id, state FROM dunning_schedules ORDER BY created_at")
    assert [row["invoice_id"] for row in rows] == [invoices[0].id, invoices[2].id]
    assert {row["state"] for row in rows} == {"recovered"}


async def test_a_schedule_in_flight_is_not_charged(billing: TenantBilling) -> None:
    """While the gateway is silent, no engine begins a second charge. Then both receive the answer."""
    answering(billing, "96", "96")
    sub = await owing(billing)
    async with second_worker(billing) as other:
        with billing.gateway.silent():
            billing.clock.advance(DUE + DAY)
            found = [await scanner.step() for scanner in billing.engine.scanners]
            assert sum(found) == 1
            schedule = await memory(billing, sub)
            assert (schedule.in_flight, schedule.attempts) == (True, 2)
            assert [await scanner.step() for scanner in other.engine.scanners] == [0] * 6
            assert [await scanner.step() for scanner in billing.engine.scanners] == [0] * 6
        await billing.settled()
    assert set(billing.gateway.charged.values()) == {1}
    assert await status(billing, sub) == "active"


async def test_two_engines_on_one_database_recover_each_invoice_once(billing: TenantBilling) -> None:
    failing = iter(range(10**6))
    billing.gateway.answers = lambda _order: Outcome("96" if next(failing) % 3 else None)
    plan = await billing.plan(trial_days=TRIAL_DAYS)
    subs = [await billing.subscribe(plan) for _ in range(12)]
    async with second_worker(billing) as other:
        for hours in (0, 0, 24, 96, 216, 384, 384):
            billing.clock.advance(DUE + timedelta(hours=hours))
            await asyncio.gather(billing.scan(), other.scan())
    assert {await status(billing, sub) for sub in subs} <= {"active", "unpaid"}
    assert set(billing.gateway.charged.values()) == {1}
    for sub in subs:
        (invoice,), recovery = await billing.invoices(sub), await billing.schedule(sub)
        made = [payment for payment in await billing.payments() if payment.invoice_id == invoice.id]
        assert sum(payment.state == "succeeded" for payment in made) == (invoice.status == "paid")
        assert len(made) == invoice.attempts == 1 + (recovery.attempts if recovery else 0)


async def test_a_refund_in_flight_postpones_recovery_without_busy_waiting(billing: TenantBilling) -> None:
    answering(billing, None, "96", "96")
    sub = await billing.subscribe(await billing.plan(interval="day"))
    await billing.until(START + DAY)
    (paid, *_) = await billing.payments()
    with billing.gateway.silent():
        await billing.subscriptions.refund(paid.id, 100)
        billing.clock.advance(START + 3 * DAY)
        assert [await scanner.step() for scanner in billing.engine.scanners] == [1, 0, 0, 0, 0, 0]
    await billing.settled()
    await billing.scan()
    assert await status(billing, sub) == "active"


async def test_an_invoice_keeps_the_settings_of_its_schedule(billing: TenantBilling) -> None:
    """The payday setting is stored in its row. A later change of the tenant's settings does not apply."""
    answering(billing, "96", "96", "51", "51")
    sub = await owing(billing)
    await billing.catalog.set_up(payday_aware=False, rails=list(Rail))
    await billing.until(DUE + DAY)
    schedule = await memory(billing, sub)
    assert (schedule.payday_aware, schedule.last_action) == (True, "retry_payday")
    assert schedule.next_attempt_at == PAYDAY
    assert schedule.last_reason.endswith("waits for payday, 28 December 09:00 UTC.")


async def test_a_cancelled_subscription_owes_nothing(billing: TenantBilling) -> None:
    sub = await owing(billing, EXPIRED_CARD)
    await billing.subscriptions.cancel(sub)
    (invoice,), schedule = await billing.invoices(sub), await memory(billing, sub)
    assert (invoice.status, schedule.state, schedule.next_attempt_at) == ("void", "cancelled", None)
    await billing.until(DUE + 60 * DAY)
    assert len(await billing.payments()) == 1


def fields(data: dict[str, Any], *keys: str) -> list[Any]:
    return [data[key] for key in keys]


async def test_each_failure_event_has_the_next_action_and_time(billing: TenantBilling) -> None:
    """The event's text equals the schedule's."""
    answering(billing, "57", "96", "51", "54")
    sub = await owing(billing)
    await billing.until(datetime(2027, 1, 2, 9, tzinfo=UTC))
    failed = [data for _, data in await billing.events("subscription_payment_failed")]
    assert [fields(data, "nextAction", "nextAttemptAt", "rail") for data in failed] == [
        ["switch_rail", "2026-12-03T10:30:00.000Z", "card"],
        ["retry", "2026-12-04T10:30:00.000Z", "ussd"],
        ["retry_payday", "2026-12-28T09:00:00.000Z", "ussd"],
        ["retry", "2027-01-02T09:00:00.000Z", "ussd"],
    ]
    schedule = await memory(billing, sub)
    assert (schedule.state, schedule.last_reason) == ("recovered", failed[-1]["reason"])


async def test_another_engine_continues_the_schedule(billing: TenantBilling) -> None:
    """The schedule's row contains everything that recovery needs."""
    sub = await billing.subscribe()
    billing.gateway.answers = lambda _order: Outcome(FailureCode.INSUFFICIENT_FUNDS)
    await billing.after(days=31)
    waiting = await billing.schedule(sub)
    assert waiting
    assert waiting.state is DunningState.WAITING
    assert waiting.next_attempt_at
    async with tenant_billing(billing.database) as fresh:
        fresh.tenant = billing.tenant
        await fresh.at(waiting.next_attempt_at)
        after = await fresh.schedule(sub)
        assert after
        assert (after.id, after.state, after.attempts) == (waiting.id, "recovered", 1)
        assert (await fresh.subscription(sub)).status is Status.ACTIVE
