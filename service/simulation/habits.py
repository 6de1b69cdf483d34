"""Draws what customers intend to do and when, at believable rates for subscriptions in Nigeria. Pure.

Monthly churn is one in fourteen; one trial in six is cancelled; two of three customers replace a card when asked; one
payment in eighty is refunded, mostly in full. Whether charges succeed is the gateway's part.

`restless` customers act that many times as often and as soon: a year's variety in weeks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from random import Random
from typing import Any, Final


class Act(StrEnum):
    CANCEL = "cancel"
    CANCEL_LATER = "cancel_later"
    KEEP = "keep"
    PAUSE = "pause"
    RESUME = "resume"
    CHANGE_PLAN = "change_plan"
    LIMIT = "limit"
    NEW_CARD = "new_card"
    PAY_WITH_NEW_CARD = "pay_with_new_card"
    REFUND = "refund"
    REFUND_PART = "refund_part"


@dataclass(frozen=True, slots=True)
class Intention:
    after: timedelta
    act: Act
    payment_id: str | None = None
    """`pay_…`, for a refund."""


LIFETIME_DAYS: Final = 420.0
_AT_MOST_BY_RESTLESSNESS: Final = 0.6


def reactions(rng: Random, type_: str, data: Mapping[str, Any], restless: float = 1.0) -> Iterable[Intention]:
    """Returns the intentions that follow an event of the customer's subscription."""
    for how_often, intention in _inclinations(rng, type_, data):
        if rng.random() < max(how_often, min(how_often * restless, _AT_MOST_BY_RESTLESSNESS)):
            yield replace(intention, after=intention.after / restless)


def _inclinations(rng: Random, type_: str, data: Mapping[str, Any]) -> Iterable[tuple[float, Intention]]:
    """Yields (probability, action). Each is drawn even if it is not used, so that one outcome does not shift the next."""
    match type_:
        case "subscription_activated":
            leaving = Act.CANCEL_LATER if rng.random() < 0.7 else Act.CANCEL
            yield 1, Intention(timedelta(days=rng.expovariate(1 / LIFETIME_DAYS)), leaving)
            yield 0.07, _within(rng, Act.PAUSE, 15, 250)
            yield 0.10, _within(rng, Act.CHANGE_PLAN, 10, 250)
            yield 0.02, _within(rng, Act.LIMIT, 5, 200)
            yield 0.08, _within(rng, Act.NEW_CARD, 20, 300)
        case "subscription_updated" if data["change"] == "trial_started":
            yield 0.16, _within(rng, Act.CANCEL, 1, 7)
        case "subscription_updated" if data["change"] == "cancellation_scheduled":
            yield 0.12, _within(rng, Act.KEEP, 0.2, 4)
        case "subscription_paused":
            yield 1, _within(rng, Act.RESUME, 7, 60)
        case "subscription_payment_success":
            act = Act.REFUND_PART if rng.random() < 0.3 else Act.REFUND
            yield 0.0125, _within(rng, act, 0.2, 12, data["paymentId"])
        case "subscription_payment_action_required":
            yield 0.66, _within(rng, Act.NEW_CARD, 0.1, 6)
        case "subscription_payment_failed" if data["nextAction"] is None:
            yield 0.5, _within(rng, Act.PAY_WITH_NEW_CARD, 0.01, 0.6)
        case "subscription_unpaid":
            act = Act.PAY_WITH_NEW_CARD if rng.random() < 0.25 else Act.CANCEL
            yield 0.8, _within(rng, act, 1, 25)
        case _:
            pass


def _within(
    rng: Random, act: Act, from_days: float, to_days: float, payment_id: str | None = None
) -> Intention:
    return Intention(timedelta(days=rng.uniform(from_days, to_days)), act, payment_id)
