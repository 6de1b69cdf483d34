"""Rows for tests of pure decisions, and a check of the database's constraints on them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from schema.billing.billing_cases import Case, Changes
from schema.billing.rows import (
    DunningSchedule,
    DunningState,
    Interval,
    Invoice,
    InvoiceStatus,
    PaymentAttempt,
    PaymentKind,
    PaymentState,
    Plan,
    Rail,
    Status,
    Subscription,
)
from schema.ids import new_id
from service.billing.decisions.dunning import DunningAction
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.lifecycle import ENDED

NOW = datetime(2026, 11, 30, 10, 30, tzinfo=UTC)
TENANT, CUSTOMER, SUBSCRIPTION, INVOICE, CHARGE = (new_id() for _ in range(5))
DAY = timedelta(days=1)

PLAN = Plan(
    TENANT, new_id(), "Gold", 500_000, "NGN", Interval.MONTH, 0, None, None, None,
    active=True, created_at=NOW, updated_at=NOW,
)  # fmt: skip
ACTIVE = Subscription(
    tenant_id=TENANT,
    id=SUBSCRIPTION,
    customer_id=CUSTOMER,
    plan_id=PLAN.id,
    status=Status.ACTIVE,
    payment_method_id=new_id(),
    promo_code_id=None,
    anchor=datetime(2026, 8, 31, 10, 30, tzinfo=UTC),
    period=2,
    current_period_start=datetime(2026, 10, 31, 10, 30, tzinfo=UTC),
    current_period_end=NOW,
    cycles=3,
    max_cycles=4,
    cancel_at_period_end=False,
    held_until=None,
    fault=None,
    created_at=NOW - 90 * DAY,
    updated_at=NOW - 30 * DAY,
    ended_at=None,
)
OWED = Invoice(
    tenant_id=TENANT,
    id=INVOICE,
    subscription_id=SUBSCRIPTION,
    status=InvoiceStatus.OPEN,
    amount=500_000,
    discount=0,
    currency="NGN",
    idempotency_key="renewal_sub_…",
    period_start=NOW,
    period_end=datetime(2026, 12, 31, 10, 30, tzinfo=UTC),
    attempts=1,
    created_at=NOW,
    paid_at=None,
)
ASKED = PaymentAttempt(
    tenant_id=TENANT,
    id=CHARGE,
    invoice_id=INVOICE,
    subscription_id=SUBSCRIPTION,
    customer_id=CUSTOMER,
    kind=PaymentKind.CHARGE,
    refund_of=None,
    number=1,
    state=PaymentState.IN_FLIGHT,
    amount=500_000,
    currency="NGN",
    rail=Rail.CARD,
    failure_code=None,
    refunded=0,
    leased_until=NOW + timedelta(minutes=2),
    created_at=NOW,
    finished_at=None,
)
WAITING = DunningSchedule(
    tenant_id=TENANT,
    id=new_id(),
    invoice_id=INVOICE,
    subscription_id=SUBSCRIPTION,
    state=DunningState.WAITING,
    attempts=1,
    rail=Rail.CARD,
    payday_aware=True,
    failure_code=FailureCode.PROCESSOR_ERROR,
    last_action=DunningAction.RETRY,
    last_reason="…",
    in_flight=True,
    next_attempt_at=NOW,
    created_at=NOW,
    updated_at=NOW,
)
CASE = Case(ACTIVE, PLAN, False, None, None, ASKED, OWED, None, None)


def in_status(status: Status, **columns: Any) -> Subscription:
    unpaid_for = {"cycles": 0, "period": 0} if status in {Status.INCOMPLETE, Status.TRIALING} else {}
    ended_at = NOW if status in ENDED else None
    return replace(ACTIVE, status=status, ended_at=ended_at, **(unpaid_for | columns))


def in_dunning(state: DunningState, **columns: Any) -> DunningSchedule:
    """Returns a schedule in that state, with a charge in flight if the state allows it."""
    waits = state in {DunningState.WAITING, DunningState.AWAITING_CARD}
    made = replace(WAITING, state=state, next_attempt_at=NOW if waits else None)
    return replace(made, **({"in_flight": state is DunningState.WAITING} | columns))


def check_rows(changes: Changes) -> None:
    """Asserts the CHECK constraints of 0014_subscriptions.sql."""
    for sub in (*changes.new_subscriptions, *changes.subscriptions):
        assert sub.current_period_start < sub.current_period_end
        assert sub.cycles >= 0
        assert sub.period >= -1
        assert sub.max_cycles is None or sub.cycles <= sub.max_cycles
        assert (sub.status in ENDED) == (sub.ended_at is not None)
        assert (sub.held_until is None) == (sub.fault is None)
    for invoice in changes.invoices:
        assert (invoice.status is InvoiceStatus.PAID) == (invoice.paid_at is not None)
    for attempt in (*changes.attempts, *changes.new_attempts):
        in_flight = attempt.state is PaymentState.IN_FLIGHT
        assert in_flight == (attempt.leased_until is not None) == (attempt.finished_at is None)
        assert (attempt.state is PaymentState.FAILED) == (attempt.failure_code is not None)
        assert (attempt.kind is PaymentKind.REFUND) == (attempt.refund_of is not None)
        paid = attempt.kind is PaymentKind.CHARGE and attempt.state is PaymentState.SUCCEEDED
        assert 0 <= attempt.refunded <= (attempt.amount if paid else 0)
    for schedule in changes.schedules:
        waits = schedule.state in {DunningState.WAITING, DunningState.AWAITING_CARD}
        assert waits == (schedule.next_attempt_at is not None)
        assert not schedule.in_flight or schedule.state is DunningState.WAITING
        assert schedule.last_reason
    for rows in (changes.subscriptions, changes.invoices, changes.attempts, changes.schedules):
        assert len({row.id for row in rows}) == len(rows), "a row is written twice"
