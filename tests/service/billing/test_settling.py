"""Settlement decisions without a database: every state and answer gives rows that satisfy the constraints."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.billing.billing_cases import Case, Changes
from schema.billing.rows import (
    DunningState,
    Interval,
    InvoiceStatus,
    PaymentKind,
    PaymentState,
    Rail,
    Status,
    StoreSettings,
    Subscription,
)
from schema.ids import new_id
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.lifecycle import ENDED
from service.billing.decisions.periods import boundary
from service.billing.decisions.settlement import give_up_waiting, settle
from service.billing.gateway.gateway import Outcome
from tests.support.billing.billing_cases import (
    ACTIVE,
    ASKED,
    CASE,
    DAY,
    NOW,
    OWED,
    PLAN,
    TENANT,
    WAITING,
    check_rows,
    in_dunning,
    in_status,
)
from tests.support.event_schemas import assert_conforms

PAID = Outcome()
CARD_ONLY = StoreSettings(TENANT, "NGN", True, [Rail.CARD], NOW)
LIVE = {DunningState.WAITING, DunningState.AWAITING_CARD}
SCHEDULES = [None, *(in_dunning(state) for state in DunningState)]
ANSWERS = [PAID, *(Outcome(failure) for failure in FailureCode), Outcome("unknown failure")]


def one(case: Case, outcome: Outcome = PAID, now: datetime = NOW) -> tuple[Subscription, Changes]:
    """The one subscription that is changed, and all that is."""
    changes = settle(case, outcome, now)
    check_rows(changes)
    (after,) = changes.subscriptions
    return after, changes


def event_types(changes: Changes) -> list[str]:
    return [fact.type for fact in changes.facts]


def check_events(changes: Changes) -> None:
    for fact in changes.facts:
        assert_conforms(fact.type, fact.data)


# Everything that can be, and more


@pytest.mark.parametrize("status", Status)
def test_every_answer_gives_rows_that_satisfy_the_constraints(status: Status) -> None:
    for schedule, answer, settings, late in product(SCHEDULES, ANSWERS, [None, CARD_ONLY], [0, 40]):
        case = replace(CASE, subscription=in_status(status), schedule=schedule, settings=settings)
        changes = settle(case, answer, NOW + late * DAY)
        check_rows(changes)
        check_events(changes)
        (ended,) = changes.attempts
        assert ended.finished_at == NOW + late * DAY
        if answer == PAID:
            assert [invoice.status for invoice in changes.invoices] == ["paid"]
        assert not any(each.in_flight for each in changes.schedules), "a charge is still in flight"
        if schedule is not None:
            assert changes.schedules, "it would stay in flight for ever"


@pytest.mark.parametrize("status", [Status.TRIALING, Status.ACTIVE, Status.PAST_DUE])
def test_exactly_past_due_subscriptions_are_in_recovery(status: Status) -> None:
    schedule = in_dunning(DunningState.WAITING) if status is Status.PAST_DUE else None
    for answer, charges, settings in product(ANSWERS, range(6), [None, CARD_ONLY]):
        had = schedule and replace(schedule, attempts=charges)
        case = replace(CASE, subscription=in_status(status), schedule=had, settings=settings)
        changes = settle(case, answer, NOW)
        check_rows(changes)
        after = changes.subscriptions[-1] if changes.subscriptions else case.subscription
        recovery = changes.schedules[-1].state if changes.schedules else None
        assert (after.status is Status.PAST_DUE) == (recovery in LIVE)
        uncollectible = [invoice.status is InvoiceStatus.UNCOLLECTIBLE for invoice in changes.invoices]
        assert (after.status is Status.UNPAID) == (uncollectible == [True])


@pytest.mark.parametrize("status", [*sorted(ENDED), Status.PAUSED])
def test_a_payment_for_an_ended_subscription_counts_as_paid(status: Status) -> None:
    case = replace(CASE, subscription=in_status(status))
    after, changes = one(case)
    assert after == case.subscription
    assert event_types(changes) == ["subscription_payment_success"]


# Successful charges


def test_a_paid_renewal_moves_to_the_invoice_s_period() -> None:
    after, changes = one(CASE)
    assert (after.current_period_start, after.current_period_end) == (OWED.period_start, OWED.period_end)
    assert (after.period, after.cycles, after.anchor) == (3, 4, ACTIVE.anchor)
    assert event_types(changes) == ["subscription_payment_success"]


@pytest.mark.parametrize("status", [Status.INCOMPLETE, Status.TRIALING])
def test_the_first_charge_activates_and_anchors_where_its_period_begins(status: Status) -> None:
    case = replace(CASE, subscription=in_status(status))
    after, changes = one(case, now=NOW + timedelta(hours=5))
    assert (after.status, after.cycles, after.period, after.anchor) == ("active", 1, 0, OWED.period_start)
    assert after.current_period_end == OWED.period_end
    assert event_types(changes) == ["subscription_payment_success", "subscription_activated"]


def test_an_hourly_first_invoice_paid_late_begins_a_new_hour() -> None:
    """A customer who pays after five hours has not used these hours."""
    hourly = replace(PLAN, interval=Interval.HOUR)
    invoice = replace(OWED, period_end=NOW + timedelta(hours=1))
    case = replace(CASE, subscription=in_status(Status.INCOMPLETE), plan=hourly, invoice=invoice)
    late = NOW + timedelta(hours=5)
    after, _ = one(case, now=late)
    assert (after.anchor, after.current_period_start) == (late, late)
    assert (after.current_period_end, after.cycles) == (late + timedelta(hours=1), 1)


def test_a_trial_missed_for_months_is_caught_up() -> None:
    """The customer had the service, so each missed period is charged in turn."""
    case = replace(CASE, subscription=in_status(Status.TRIALING))
    after, _ = one(case, now=NOW + 90 * DAY)
    assert (after.current_period_end, after.anchor) == (OWED.period_end, OWED.period_start)


@pytest.mark.parametrize("status", [Status.PAST_DUE, Status.UNPAID])
def test_recovery_within_the_period_keeps_the_rest_of_it(status: Status) -> None:
    state = DunningState.WAITING if status is Status.PAST_DUE else DunningState.EXHAUSTED
    case = replace(CASE, subscription=in_status(status), schedule=in_dunning(state))
    after, changes = one(case, now=OWED.period_end - timedelta(seconds=1))
    assert (after.status, after.cycles, after.period, after.anchor) == ("active", 4, 3, ACTIVE.anchor)
    assert (after.current_period_start, after.current_period_end) == (OWED.period_start, OWED.period_end)
    assert event_types(changes) == ["subscription_payment_recovered", "subscription_recovered"]
    assert changes.schedules[0].state is DunningState.RECOVERED


@given(st.timedeltas(timedelta(0), timedelta(days=700)), st.sampled_from(Interval))
def test_late_recovery_begins_a_new_period(after: timedelta, interval: Interval) -> None:
    now = OWED.period_end + after
    case = replace(
        CASE,
        subscription=in_status(Status.PAST_DUE),
        schedule=WAITING,
        plan=replace(PLAN, interval=interval),
    )
    recovered, _ = one(case, now=now)
    assert (recovered.anchor, recovered.period, recovered.current_period_start) == (now, 0, now)
    assert recovered.current_period_end == boundary(now, interval, 1)


def test_a_recovered_trial_is_anchored_at_its_first_period() -> None:
    case = replace(CASE, subscription=in_status(Status.PAST_DUE, cycles=0, period=0), schedule=WAITING)
    after, _ = one(case, now=NOW + DAY)
    assert (after.anchor, after.period, after.cycles) == (OWED.period_start, 0, 1)


# Charges that failed


def test_a_failed_first_charge_only_records_an_event() -> None:
    changes = settle(replace(CASE, subscription=in_status(Status.INCOMPLETE)), Outcome("51"), NOW)
    assert not changes.subscriptions
    assert not changes.invoices
    assert not changes.schedules
    (fact,) = changes.facts
    assert (fact.data["failureCode"], fact.data["responseCode"]) == ("insufficient_funds", "51")
    assert fact.data["nextAction"] is fact.data["nextAttemptAt"] is fact.data["reason"] is None


@pytest.mark.parametrize("status", [Status.TRIALING, Status.ACTIVE])
def test_a_failed_renewal_begins_recovery_in_the_old_period(status: Status) -> None:
    case = replace(CASE, subscription=in_status(status))
    after, changes = one(case, Outcome("51"))
    assert after == replace(case.subscription, status=Status.PAST_DUE, updated_at=NOW)
    (schedule,) = changes.schedules
    assert (schedule.state, schedule.attempts, schedule.rail) == ("waiting", 0, "card")
    assert (schedule.last_action, schedule.failure_code) == ("retry_payday", "insufficient_funds")
    assert schedule.next_attempt_at == datetime(2026, 12, 28, 9, tzinfo=NOW.tzinfo)
    assert schedule.last_reason == changes.facts[0].data["reason"]
    assert event_types(changes) == ["subscription_payment_failed", "subscription_past_due"]


def test_a_permanently_failing_card_is_replaced() -> None:
    _, changes = one(CASE, Outcome("54"))
    (schedule,) = changes.schedules
    assert (schedule.state, schedule.next_attempt_at) == ("awaiting_card", NOW + 7 * DAY)
    assert event_types(changes)[-1] == "subscription_payment_action_required"
    assert changes.facts[-1].data["deadline"] == "2026-12-07T10:30:00.000Z"


def test_a_final_failure_ends_it_with_three_events() -> None:
    case = replace(CASE, settings=CARD_ONLY)
    after, changes = one(case, Outcome("57"))
    assert after.status is Status.UNPAID
    assert changes.schedules[0].state is DunningState.EXHAUSTED
    assert event_types(changes) == [
        "subscription_payment_failed",
        "subscription_past_due",
        "subscription_unpaid",
    ]


def test_the_last_charge_that_fails_ends_it() -> None:
    case = replace(
        CASE, subscription=in_status(Status.PAST_DUE), schedule=in_dunning(DunningState.WAITING, attempts=5)
    )
    after, changes = one(case, Outcome("timeout"))
    assert (after.status, changes.invoices[0].status) == ("unpaid", "uncollectible")
    assert changes.facts[-1].data["reason"] == changes.schedules[0].last_reason


def test_a_schedule_keeps_its_settings() -> None:
    """Later changes of the tenant's settings do not apply."""
    impatient = replace(WAITING, payday_aware=False)
    case = replace(CASE, subscription=in_status(Status.PAST_DUE), schedule=impatient, settings=CARD_ONLY)
    (schedule,) = settle(case, Outcome("51"), NOW).schedules
    assert schedule.last_action == "retry"


def test_a_failed_collection_is_recorded_and_starts_nothing() -> None:
    """So a later recovery event names the latest failure."""
    exhausted = in_dunning(DunningState.EXHAUSTED)
    case = replace(CASE, subscription=in_status(Status.UNPAID), schedule=exhausted)
    changes = settle(case, Outcome("51"), NOW)
    check_rows(changes)
    assert not changes.subscriptions
    (known,) = changes.schedules
    assert (known.state, known.failure_code) == ("exhausted", "insufficient_funds")


# Refunds


REFUND = replace(ASKED, id=new_id(), kind=PaymentKind.REFUND, refund_of=ASKED.id, amount=200_000)
CHARGED = replace(ASKED, state=PaymentState.SUCCEEDED, leased_until=None, finished_at=NOW, refunded=350_000)
REFUNDING = replace(CASE, attempt=REFUND, charge=CHARGED, invoice=replace(OWED, status=InvoiceStatus.PAID))


@pytest.mark.parametrize("status", Status)
def test_a_refund_concerns_no_subscription(status: Status) -> None:
    case = replace(REFUNDING, subscription=in_status(status))
    for answer in ANSWERS:
        changes = settle(case, answer, NOW)
        assert not [*changes.subscriptions, *changes.invoices, *changes.schedules]


def test_a_refund_event_has_the_total_refunded_amount() -> None:
    changes = settle(REFUNDING, PAID, NOW)
    check_rows(changes)
    check_events(changes)
    (fact,) = changes.facts
    assert (fact.data["amount"], fact.data["refundedAmount"], fact.data["paidAmount"]) == (
        200_000,
        350_000,
        500_000,
    )


def test_a_failed_refund_releases_its_reservation_without_event() -> None:
    changes = settle(REFUNDING, Outcome("96"), NOW)
    check_rows(changes)
    assert not changes.facts
    ended, charge = changes.attempts
    assert (ended.state, ended.failure_code) == ("failed", "processor_error")
    assert (charge.id, charge.refunded) == (CHARGED.id, 150_000)


# Missing replacement cards


def test_a_missing_replacement_card_ends_it() -> None:
    awaiting = in_dunning(DunningState.AWAITING_CARD, failure_code="stolen_card", in_flight=False)
    case = replace(CASE, subscription=in_status(Status.PAST_DUE), schedule=awaiting, attempt=None)
    changes = give_up_waiting(case, NOW)
    check_rows(changes)
    check_events(changes)
    assert changes.subscriptions[0].status is Status.UNPAID
    assert changes.schedules[0].state is DunningState.EXHAUSTED
    assert event_types(changes) == ["subscription_unpaid"]
