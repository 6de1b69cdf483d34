"""Decides what happens to a subscription whose period is over. Pure.

incomplete                         expire_incomplete; what it owes is void
cancel_at_period_end               cancel
its customer is blacklisted        cancel
max_cycles periods are paid        reach_limit
else                               the next period's invoice and a charge for it; the period moves when it is paid
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from schema.billing.billing_cases import Case, Changes
from schema.billing.rows import DunningState, InvoiceStatus, Status, Subscription
from service.billing import billing_events
from service.billing.decisions.invoicing import next_invoice
from service.billing.decisions.lifecycle import ENDED, Action, transition


def renew(case: Case, now: datetime) -> Changes:
    subscription = case.subscription
    if subscription.status is Status.INCOMPLETE:
        return act(case, Action.EXPIRE_INCOMPLETE, now, change="incomplete_expired")
    if subscription.cancel_at_period_end:
        return act(case, Action.CANCEL, now, reason="period_end")
    if case.blacklisted:
        return act(case, Action.CANCEL, now, reason="fraud")
    if subscription.status is Status.ACTIVE and subscription.cycles == subscription.max_cycles:
        return act(case, Action.REACH_LIMIT, now)
    changes = Changes(new_invoices=[next_invoice(case, now)])
    if subscription.promo_code_id is not None:  # a promo code is for one invoice
        changes.subscriptions.append(replace(subscription, promo_code_id=None, updated_at=now))
    return changes


def act(case: Case, action: Action, now: datetime, **more: Any) -> Changes:
    """Applies an action of the lifecycle; `more` is added to its event's data. Raises IllegalAction."""
    move = transition(case.subscription.status, action)
    after = moved(case.subscription, action, now)
    changes = Changes(subscriptions=[after])
    if after.status in ENDED:
        changes.add(settle_nothing_more(case, now))
    changes.facts.append(billing_events.of_subscription(move.event, after, case.plan, **more))
    return changes


def moved(subscription: Subscription, action: Action, now: datetime) -> Subscription:
    to = transition(subscription.status, action).to
    return replace(
        subscription,
        status=to,
        updated_at=now,
        ended_at=now if to in ENDED else None,
        held_until=None,
        fault=None,
    )


def settle_nothing_more(case: Case, now: datetime) -> Changes:
    """Voids what an ended subscription owes."""
    changes = Changes()
    if case.invoice is not None and case.invoice.status is not InvoiceStatus.PAID:
        changes.invoices.append(replace(case.invoice, status=InvoiceStatus.VOID))
    if case.schedule is not None and case.schedule.state in {
        DunningState.WAITING,
        DunningState.AWAITING_CARD,
    }:
        changes.schedules.append(
            replace(case.schedule, state=DunningState.CANCELLED, next_attempt_at=None, updated_at=now)
        )
    return changes
