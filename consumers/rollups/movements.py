"""Decides what an event means for a subscription, for monthly recurring revenue (MRR) and for recovery. Pure.

A subscription is counted while it is active, and while it is past due if it was active before: revenue of a failed renewal
is at risk, not lost. Its MRR is its price per month (monthly_price.py), without discounts.

    before      ──► after        movement
    not counted ──► counted      new (never active before), resumed (was paused), else reactivation
    counted     ──► not counted  paused, completed (last cycle), churn_involuntary (dunning exhausted, fraud),
                                 else churn_voluntary
    counted     ──► counted      expansion or contraction by price; switch for another plan at the same price. A change of
                                 currency is a contraction of the whole amount and an expansion in the new currency
    paused      ──► ended        churn without MRR, which left with the pause; none if it was never active

A recovery begins when a renewal fails. It ends once, as recovered, exhausted or cancelled. A payment after it was exhausted is
won back. Its failure code is that of the renewal that failed first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from consumers.rollups.event_facts import NO_ID, EventFacts
from schema.read_models.rollups import Movement, Recovery, SubscriptionState

_INITIAL_STATUS: Final = "incomplete"
_STATUS_AFTER: Final[Mapping[str, str]] = {
    "subscription_activated": "active",
    "subscription_paused": "paused",
    "subscription_resumed": "active",
    "subscription_past_due": "past_due",
    "subscription_recovered": "active",
    "subscription_unpaid": "unpaid",
    "subscription_expired": "expired",
    "subscription_cancelled": "canceled",
}
"""The status that the event type implies. subscription_created is absent: an imported subscription may be active."""
CHANGING: Final = frozenset(
    {*_STATUS_AFTER, "subscription_created", "subscription_updated", "subscription_plan_changed"}
)
"""Types whose data describes the whole subscription."""
PAYMENT_RECOVERED: Final = "subscription_payment_recovered"
STATEFUL: Final = CHANGING | {PAYMENT_RECOVERED}
"""Types that are evaluated against the subscription's state."""
_INVOLUNTARY: Final = "fraud"


@dataclass(slots=True)
class MovementDelta:
    kind: Movement
    plan_id: UUID
    currency: str
    subscriptions: int
    counted: int
    mrr: int


@dataclass(slots=True)
class RecoveryStep:
    kind: Recovery
    failure_code: str
    currency: str
    amount: int


def next_state(
    before: SubscriptionState | None, pos: int, type_: str, facts: EventFacts
) -> SubscriptionState:
    """Returns the state after an event of a type in CHANGING. Missing values keep their previous value."""
    was = before or SubscriptionState(pos, _INITIAL_STATUS, NO_ID, "", 0, was_active=False, failure_code="")
    status = (
        _STATUS_AFTER.get(type_)
        or facts.status
        or (_INITIAL_STATUS if type_ == "subscription_created" else was.status)
    )
    priced = facts.mrr is not None
    return SubscriptionState(
        pos,
        status,
        was.plan_id if facts.plan_id == NO_ID else facts.plan_id,
        facts.currency if priced else was.currency,
        was.mrr if facts.mrr is None else facts.mrr,
        was_active=was.was_active or status == "active",
        failure_code=facts.failure_code if type_ == "subscription_past_due" else was.failure_code,
    )


def is_counted(state: SubscriptionState | None) -> bool:
    return state is not None and (
        state.status == "active" or (state.status == "past_due" and state.was_active)
    )


def movements(
    before: SubscriptionState | None, after: SubscriptionState, reason: str
) -> Iterator[MovementDelta]:
    """Yields the movements from one state to the next. `reason` is that of a cancellation."""
    was, now = is_counted(before), is_counted(after)
    if now and not was:
        yield MovementDelta(_entry(before), after.plan_id, after.currency, 1, 1, after.mrr)
    elif was and not now:
        assert before is not None
        yield MovementDelta(_exit(after.status, reason), before.plan_id, before.currency, 1, -1, -before.mrr)
    elif was and now:
        assert before is not None
        yield from _changes(before, after)
    elif before is not None and before.status == "paused" and before.was_active and after.status in _ENDED:
        yield MovementDelta(_exit(after.status, reason), before.plan_id, before.currency, 1, 0, 0)


_ENDED: Final = frozenset({"canceled", "unpaid", "expired"})


def _entry(before: SubscriptionState | None) -> Movement:
    if before is None or not before.was_active:
        return Movement.NEW
    return Movement.RESUMED if before.status == "paused" else Movement.REACTIVATION


def _exit(status: str, reason: str) -> Movement:
    match status:
        case "paused":
            return Movement.PAUSED
        case "expired":
            return Movement.COMPLETED
        case "unpaid":
            return Movement.CHURN_INVOLUNTARY
        case _:
            return Movement.CHURN_INVOLUNTARY if reason == _INVOLUNTARY else Movement.CHURN_VOLUNTARY


def _changes(before: SubscriptionState, after: SubscriptionState) -> Iterator[MovementDelta]:
    if before.currency != after.currency:
        yield MovementDelta(Movement.CONTRACTION, before.plan_id, before.currency, 1, -1, -before.mrr)
        yield MovementDelta(Movement.EXPANSION, after.plan_id, after.currency, 1, 1, after.mrr)
        return
    more = after.mrr - before.mrr
    kind = Movement.EXPANSION if more > 0 else Movement.CONTRACTION if more < 0 else Movement.SWITCH
    if before.plan_id != after.plan_id:
        yield MovementDelta(kind, before.plan_id, before.currency, 0, -1, -before.mrr)
        yield MovementDelta(kind, after.plan_id, after.currency, 1, 1, after.mrr)
    elif more:
        yield MovementDelta(kind, after.plan_id, after.currency, 1, 0, more)


def recovery(before: SubscriptionState | None, type_: str, facts: EventFacts) -> RecoveryStep | None:
    """Returns the recovery step of an event. `before` is None if the state is unknown or newer than the event."""
    status = "" if before is None else before.status
    first_failure = before.failure_code if before is not None and status in {"past_due", "unpaid"} else ""
    code, amount = first_failure or facts.failure_code, facts.amount or 0
    match type_:
        case "subscription_past_due":
            return RecoveryStep(Recovery.AT_RISK, facts.failure_code, facts.currency, amount)
        case "subscription_payment_recovered":
            kind = Recovery.WON_BACK if status == "unpaid" else Recovery.RECOVERED
            return RecoveryStep(kind, code, facts.currency, amount)
        case "subscription_unpaid":
            return RecoveryStep(Recovery.EXHAUSTED, code, facts.currency, amount)
        case "subscription_cancelled" if status == "past_due":
            return RecoveryStep(Recovery.CANCELLED, code, facts.currency, amount)
        case _:
            return None
