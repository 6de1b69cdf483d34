"""What an event means for a subscription, for monthly recurring revenue (MRR) and for recovery: pure.

A subscription counts while it is active, and while it is past due after having been active once: a renewal that failed is at
risk, not lost. What it counts for is its price, brought to a month (monthly.py); discounts are not in it.

    before ──► after         kind
    no    ──► counts         new: the first time. resumed: it was paused. Else reactivation
    counts ──► no            paused; completed (its last cycle); churn_involuntary (dunning ran out, fraud); churn_voluntary
    counts ──► counts        expansion, contraction: by the price. switch: another plan at the same. In another currency it is
                             a contraction of all in the one and an expansion in the other
    paused ──► ended         churn of no MRR, for that left with the pause. Of what never was active there is none

Recovery begins when a renewal fails and ends once: recovered, exhausted or cancelled; what is paid after it was exhausted is
won back. Its failure code is the one that it began with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from consumers.told import NO_ID, Told
from schema.rollups import Movement, Recovery, State

_BEGINS_AS: Final = "incomplete"
_IS_THEN: Final[Mapping[str, str]] = {
    "subscription_activated": "active",
    "subscription_paused": "paused",
    "subscription_resumed": "active",
    "subscription_past_due": "past_due",
    "subscription_recovered": "active",
    "subscription_unpaid": "unpaid",
    "subscription_expired": "expired",
    "subscription_cancelled": "canceled",
}
"""What the type alone says of the status. A creation may tell any: of one that was brought along, that it is active."""
CHANGING: Final = frozenset(
    {*_IS_THEN, "subscription_created", "subscription_updated", "subscription_plan_changed"}
)
"""Types that tell the whole subscription."""
PAID_AFTER_ALL: Final = "subscription_payment_recovered"
CONCERNED: Final = CHANGING | {PAID_AFTER_ALL}
"""Types for which a subscription's state matters."""
_INVOLUNTARY: Final = "fraud"


@dataclass(slots=True)
class Moved:
    kind: Movement
    plan_id: UUID
    currency: str
    subscriptions: int
    counted: int
    mrr: int


@dataclass(slots=True)
class Risk:
    kind: Recovery
    failure_code: str
    currency: str
    amount: int


def changed(before: State | None, pos: int, type_: str, told: Told) -> State:
    """After an event of a type in CHANGING. What it does not tell stays as it was."""
    was = before or State(pos, _BEGINS_AS, NO_ID, "", 0, was_active=False, failure_code="")
    status = (
        _IS_THEN.get(type_) or told.status or (_BEGINS_AS if type_ == "subscription_created" else was.status)
    )
    priced = told.mrr is not None
    return State(
        pos,
        status,
        was.plan_id if told.plan_id == NO_ID else told.plan_id,
        told.currency if priced else was.currency,
        was.mrr if told.mrr is None else told.mrr,
        was_active=was.was_active or status == "active",
        failure_code=told.failure_code if type_ == "subscription_past_due" else was.failure_code,
    )


def counts(state: State | None) -> bool:
    return state is not None and (
        state.status == "active" or (state.status == "past_due" and state.was_active)
    )


def movements(before: State | None, after: State, reason: str) -> Iterator[Moved]:
    """`reason`: of a cancellation."""
    was, now = counts(before), counts(after)
    if now and not was:
        yield Moved(_entry(before), after.plan_id, after.currency, 1, 1, after.mrr)
    elif was and not now:
        assert before is not None
        yield Moved(_exit(after.status, reason), before.plan_id, before.currency, 1, -1, -before.mrr)
    elif was and now:
        assert before is not None
        yield from _changes(before, after)
    elif before is not None and before.status == "paused" and before.was_active and after.status in _ENDED:
        yield Moved(_exit(after.status, reason), before.plan_id, before.currency, 1, 0, 0)


_ENDED: Final = frozenset({"canceled", "unpaid", "expired"})


def _entry(before: State | None) -> Movement:
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


def _changes(before: State, after: State) -> Iterator[Moved]:
    if before.currency != after.currency:
        yield Moved(Movement.CONTRACTION, before.plan_id, before.currency, 1, -1, -before.mrr)
        yield Moved(Movement.EXPANSION, after.plan_id, after.currency, 1, 1, after.mrr)
        return
    more = after.mrr - before.mrr
    kind = Movement.EXPANSION if more > 0 else Movement.CONTRACTION if more < 0 else Movement.SWITCH
    if before.plan_id != after.plan_id:
        yield Moved(kind, before.plan_id, before.currency, 0, -1, -before.mrr)
        yield Moved(kind, after.plan_id, after.currency, 1, 1, after.mrr)
    elif more:
        yield Moved(kind, after.plan_id, after.currency, 1, 0, more)


def recovery(before: State | None, type_: str, told: Told) -> Risk | None:
    """`before` is None as well where the event is older than what is known: then it speaks for itself alone."""
    status = "" if before is None else before.status
    began_with = before.failure_code if before is not None and status in {"past_due", "unpaid"} else ""
    code, amount = began_with or told.failure_code, told.amount or 0
    match type_:
        case "subscription_past_due":
            return Risk(Recovery.AT_RISK, told.failure_code, told.currency, amount)
        case "subscription_payment_recovered":
            kind = Recovery.WON_BACK if status == "unpaid" else Recovery.RECOVERED
            return Risk(kind, code, told.currency, amount)
        case "subscription_unpaid":
            return Risk(Recovery.EXHAUSTED, code, told.currency, amount)
        case "subscription_cancelled" if status == "past_due":
            return Risk(Recovery.CANCELLED, code, told.currency, amount)
        case _:
            return None
