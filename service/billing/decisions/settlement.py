"""Applies the gateway's answer. Pure. In one transaction the attempt ends, and:

    a charge succeeded  the invoice is paid; incomplete and trialing become active, active moves to the next period,
                        past_due and unpaid recover
    a charge failed     incomplete waits for another charge; trialing and active become past_due and a dunning schedule
                        begins; past_due follows dunning's decision, which may be unpaid
    a refund            succeeded: an event is recorded; failed: the amount can be refunded again

A renewal's period is the invoice's. A subscription that recovers after its invoice's period has ended begins a new period
immediately and is not charged for the time in between. The same holds for a first invoice that is paid so late.
"""

from dataclasses import replace
from datetime import datetime

from schema.billing.billing_cases import Case, Changes
from schema.billing.rows import (
    DunningSchedule,
    DunningState,
    Invoice,
    InvoiceStatus,
    PaymentAttempt,
    PaymentKind,
    PaymentState,
    Plan,
    Status,
    Subscription,
)
from schema.ids import new_id
from service.billing import billing_events
from service.billing.decisions.dunning import Decision, DunningAction, Memory, decide, give_up_on_card
from service.billing.decisions.failure_codes import FailureCode, classify
from service.billing.decisions.lifecycle import ENDED, Action, transition
from service.billing.decisions.periods import boundary
from service.billing.decisions.renewal import moved
from service.billing.gateway.gateway import Outcome


def settle(case: Case, outcome: Outcome, now: datetime) -> Changes:
    """Settles the case's attempt in flight."""
    assert case.attempt is not None
    assert case.invoice is not None
    failure = None if outcome.failure is None else classify(outcome.failure)
    ended = replace(
        case.attempt,
        state=PaymentState.SUCCEEDED if failure is None else PaymentState.FAILED,
        failure_code=failure,
        leased_until=None,
        finished_at=now,
    )
    changes = Changes(attempts=[ended])
    if ended.kind is PaymentKind.REFUND:
        changes.add(_refund(case, ended))
    elif failure is None:
        changes.add(_paid(case, case.invoice, ended, now))
    else:
        changes.add(_failed(case, case.invoice, ended, failure, now))
    return changes


def give_up_waiting(case: Case, now: datetime) -> Changes:
    """Ends a schedule whose card was not replaced in time."""
    assert case.schedule is not None
    assert case.invoice is not None
    schedule = case.schedule
    decision = give_up_on_card(schedule.attempts, schedule.rail, schedule.failure_code)
    changes = Changes(schedules=[_remember(schedule, schedule.failure_code, decision, now)])
    changes.add(_exhausted(case.subscription, case.plan, case.invoice, schedule.failure_code, decision, now))
    return changes


def _refund(case: Case, ended: PaymentAttempt) -> Changes:
    assert case.charge is not None
    if ended.state is PaymentState.FAILED:
        back = replace(case.charge, refunded=case.charge.refunded - ended.amount)
        return Changes(attempts=[back])
    return Changes(facts=[billing_events.payment_refunded(ended, case.charge, case.subscription)])


def _paid(case: Case, invoice: Invoice, ended: PaymentAttempt, now: datetime) -> Changes:
    changes = Changes(invoices=[replace(invoice, status=InvoiceStatus.PAID, paid_at=now)])
    after = _advanced(case, invoice, now)
    changes.subscriptions.append(after)
    if case.schedule is None:
        changes.facts.append(billing_events.payment_succeeded(ended, after))
    else:
        changes.schedules.append(_recovered(case.schedule, now))
        changes.facts.append(billing_events.payment_recovered(ended, after, case.schedule.failure_code))
    match case.subscription.status:
        case Status.INCOMPLETE | Status.TRIALING:
            event = transition(case.subscription.status, Action.ACTIVATE).event
            changes.facts.append(billing_events.of_subscription(event, after, case.plan))
        case Status.PAST_DUE | Status.UNPAID:
            event = transition(case.subscription.status, Action.RECOVER).event
            changes.facts.append(
                billing_events.of_subscription(
                    event, after, case.plan, invoiceId=billing_events.invoice_id(invoice)
                )
            )
        case _:
            pass
    return changes


def _advanced(case: Case, invoice: Invoice, now: datetime) -> Subscription:
    before = case.subscription
    if before.status in ENDED or before.status is Status.PAUSED:  # it was paid nevertheless
        return before
    paid = replace(
        before,
        cycles=before.cycles + 1,
        current_period_start=invoice.period_start,
        current_period_end=invoice.period_end,
        held_until=None,
        fault=None,
        updated_at=now,
    )
    if before.status is Status.ACTIVE:
        return replace(paid, period=before.period + 1)
    first = before.status in {Status.INCOMPLETE, Status.TRIALING}
    after = moved(paid, Action.ACTIVATE if first else Action.RECOVER, now)
    if (
        invoice.period_end <= now and before.status is not Status.TRIALING
    ):  # the trial has ended in the meantime
        end = boundary(now, case.plan.interval, 1)
        return replace(after, anchor=now, period=0, current_period_start=now, current_period_end=end)
    if before.cycles == 0:  # also after a trial whose first charge had failed
        return replace(after, anchor=invoice.period_start, period=0)
    return replace(after, period=before.period + 1)


def _failed(
    case: Case, invoice: Invoice, ended: PaymentAttempt, failure: FailureCode, now: datetime
) -> Changes:
    before, schedule = case.subscription, case.schedule
    if before.status not in {Status.TRIALING, Status.ACTIVE, Status.PAST_DUE}:
        fact = billing_events.payment_failed(ended, before, failure, None)
        if schedule is None:
            return Changes(facts=[fact])
        known = replace(schedule, failure_code=failure, in_flight=False, updated_at=now)
        return Changes(schedules=[known], facts=[fact])
    charges = 0 if schedule is None else schedule.attempts
    payday_aware = case.payday_aware if schedule is None else schedule.payday_aware
    decision = decide(Memory(charges, failure, ended.rail, payday_aware, case.rails), now)
    after = before
    changes = Changes(facts=[billing_events.payment_failed(ended, before, failure, decision)])
    if before.status is not Status.PAST_DUE:
        event = transition(before.status, Action.RENEWAL_FAILED).event
        after = moved(before, Action.RENEWAL_FAILED, now)
        owed = billing_events.invoice_id(invoice)
        changes.facts.append(
            billing_events.of_subscription(event, after, case.plan, invoiceId=owed, failureCode=failure)
        )
        changes.subscriptions.append(after)
    remembered = schedule or _new_schedule(invoice, ended, failure, payday_aware=payday_aware, now=now)
    changes.schedules.append(_remember(remembered, failure, decision, now))
    if decision.action is DunningAction.EXHAUST:
        changes.subscriptions.clear()
        changes.add(_exhausted(after, case.plan, invoice, failure, decision, now))
    elif decision.action is DunningAction.REQUEST_CARD_UPDATE:
        changes.facts.append(billing_events.action_required(invoice, after, failure, decision))
    return changes


def _exhausted(
    subscription: Subscription, plan: Plan, invoice: Invoice, failure: str, decision: Decision, now: datetime
) -> Changes:
    event = transition(subscription.status, Action.EXHAUST_DUNNING).event
    after = moved(subscription, Action.EXHAUST_DUNNING, now)
    details = {
        "invoiceId": billing_events.invoice_id(invoice),
        "failureCode": failure,
        "reason": decision.reason,
    }
    return Changes(
        subscriptions=[after],
        invoices=[replace(invoice, status=InvoiceStatus.UNCOLLECTIBLE)],
        facts=[billing_events.of_subscription(event, after, plan, **details)],
    )


def _new_schedule(
    invoice: Invoice, ended: PaymentAttempt, failure: FailureCode, *, payday_aware: bool, now: datetime
) -> DunningSchedule:
    return DunningSchedule(
        tenant_id=invoice.tenant_id,
        id=new_id(),
        invoice_id=invoice.id,
        subscription_id=invoice.subscription_id,
        state=DunningState.WAITING,
        attempts=0,
        rail=ended.rail,
        payday_aware=payday_aware,
        failure_code=failure,
        last_action=DunningAction.RETRY,
        last_reason="",
        in_flight=False,
        next_attempt_at=now,
        created_at=now,
        updated_at=now,
    )


def _remember(schedule: DunningSchedule, failure: str, decision: Decision, now: datetime) -> DunningSchedule:
    states = {
        DunningAction.EXHAUST: DunningState.EXHAUSTED,
        DunningAction.REQUEST_CARD_UPDATE: DunningState.AWAITING_CARD,
    }
    return replace(
        schedule,
        state=states.get(decision.action, DunningState.WAITING),
        rail=decision.rail,
        failure_code=failure,
        last_action=decision.action,
        last_reason=decision.reason,
        in_flight=False,
        next_attempt_at=decision.at,
        updated_at=now,
    )


def _recovered(schedule: DunningSchedule, now: datetime) -> DunningSchedule:
    return replace(
        schedule, state=DunningState.RECOVERED, in_flight=False, next_attempt_at=None, updated_at=now
    )
