"""Writes the sentence of an activity entry from the event's data: a pure function of anything record_event() accepts.

A part of the sentence whose data is missing or malformed is left out. An event type that this version does not know
gets a sentence that says so.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from consumers.event_data import clause, how_long, integer, moment, money, price, span, text, when, word

Data: TypeAlias = Mapping[str, Any]
Sentence: TypeAlias = Callable[[Data, datetime], str]

LONGEST_SUMMARY: Final = 400


def summary_of(type_: str, data: Data, at: datetime) -> str:
    """`at` is when the event happened."""
    sentence = _SENTENCES.get(type_)
    summary = _unknown(type_, data) if sentence is None else sentence(data, at)
    return summary if len(summary) <= LONGEST_SUMMARY else f"{summary[: LONGEST_SUMMARY - 1]}…"


# Subscriptions


def _created(data: Data, _at: datetime) -> str:
    return "Subscription created" + _part(" to {}", _id(data, "planId")) + _part(" at {}", _price(data))


def _activated(data: Data, _at: datetime) -> str:
    return (
        "Subscription activated" + _part(" at {}", _price(data)) + _part("; paid until {}", _period_end(data))
    )


def _updated(data: Data, _at: datetime) -> str:
    change, ends = data.get("change"), _period_end(data)
    match change:
        case "trial_started":
            summary = "Trial started" + _part("; it ends on {}", ends)
        case "incomplete_expired":
            summary = "Subscription expired: its first payment was not made"
        case "cancellation_scheduled":
            summary = "Subscription will be cancelled " + (f"on {ends}" if ends else "when its period ends")
        case "cancellation_withdrawn":
            summary = "Subscription continues: its cancellation was withdrawn"
        case "payment_method":
            summary = "Subscription's payment method changed" + _part(" to {}", _id(data, "paymentMethodId"))
        case "limit":
            most = integer(data.get("maxCycles"))
            summary = "Subscription now ends " + (
                "only when it is cancelled" if most is None else f"after {_periods(most)}"
            )
        case _:
            summary = "Subscription updated" + _part(": {}", word(change))
    return summary


def _plan_changed(data: Data, _at: datetime) -> str:
    before = price(data.get("previousAmount"), data.get("previousCurrency"), data.get("previousInterval"))
    return (
        "Subscription moved"
        + _part(" from {}", _id(data, "previousPlanId") + _part(" ({})", before))
        + _part(" to {}", _id(data, "planId") + _part(" ({})", _price(data)))
    )


def _paused(_data: Data, _at: datetime) -> str:
    return "Subscription paused"


def _resumed(data: Data, _at: datetime) -> str:
    return "Subscription resumed" + _part("; its period ends on {}", _period_end(data))


def _past_due(data: Data, _at: datetime) -> str:
    return (
        "Subscription past due: its renewal failed"
        + _part(" ({})", _failure(data))
        + ", and recovery has begun"
    )


def _recovered(data: Data, _at: datetime) -> str:
    return "Subscription recovered" + _part("; paid until {}", _period_end(data))


def _unpaid(data: Data, _at: datetime) -> str:
    why = clause(data.get("reason")) or _failure(data)
    return "Subscription unpaid: no further charge is attempted" + _part(": {}", why)


def _expired(data: Data, _at: datetime) -> str:
    cycles = integer(data.get("cycles"))
    return "Subscription expired" + ("" if cycles is None else f" after {_periods(cycles)}")


_CANCELLED: Final = {
    "requested": " on request",
    "period_end": " at the end of its period, as requested earlier",
    "fraud": " because of fraud",
}


def _cancelled(data: Data, _at: datetime) -> str:
    reason = word(data.get("reason"))
    return "Subscription cancelled" + _CANCELLED.get(
        reason.replace(" ", "_"), "" if reason == "other" else _part(": {}", reason)
    )


# Invoices and payments


def _invoice(data: Data, _at: datetime) -> str:
    discount = integer(data.get("discount"))
    begins, ends = moment(data.get("periodStart")), moment(data.get("periodEnd"))
    return (
        "Invoice"
        + _part(" of {}", _amount(data))
        + " created"
        + (f" for {span(begins, ends)}" if begins and ends else "")
        + (f", {money(discount, data.get('currency'))} discount applied" if discount else "")
    )


def _paid(data: Data, _at: datetime) -> str:
    return _payment(data) + " succeeded" + _attempt_number(data)


def _failed(data: Data, _at: datetime) -> str:
    return _payment(data) + " failed" + _part(": {}", _failure(data)) + _part("; {}", _next(data))


def _next(data: Data) -> str:
    """Says what happens after a failed charge."""
    at = when(data.get("nextAttemptAt"))
    match data.get("nextAction"):
        case "retry":
            return "will be retried" + _part(" on {}", at)
        case "retry_payday":
            return "will be retried on payday" + _part(", {}", at)
        case "switch_rail":
            return "will be retried by another payment method" + _part(" on {}", at)
        case "request_card_update":
            return "the customer is asked for another card" + _part(" until {}", at)
        case "exhaust":
            return "no further retry"
        case _:
            return _part("will be retried on {}", at)


def _payment_recovered(data: Data, _at: datetime) -> str:
    return _payment(data) + " recovered" + _attempt_number(data) + _part(", after {}", _failure(data))


def _refunded(data: Data, _at: datetime) -> str:
    whole, in_all = (money(data.get(key), data.get("currency")) for key in ("paidAmount", "refundedAmount"))
    amount = _amount(data)
    return (
        "Refund"
        + _part(" of {}", amount)
        + _part(" for a payment of {}", whole)
        + (f"; {in_all} refunded in total" if in_all and in_all != amount else "")
    )


def _action_required(data: Data, _at: datetime) -> str:
    return (
        "Customer must update the card"
        + _part(" for a payment of {}", _amount(data))
        + _part(" until {}", when(data.get("deadline")))
        + _part(": {}", _failure(data))
    )


# Webhook endpoints


def _endpoint_failing(data: Data, at: datetime) -> str:
    duration = how_long(moment(data.get("failingSince")), at)
    return (
        _endpoint(data)
        + (f" has failed for {duration}" if duration else " is failing")
        + _attempts(data)
        + _part("; it will be disabled on {} unless an attempt succeeds", when(data.get("disablesAt")))
    )


def _endpoint_disabled(data: Data, at: datetime) -> str:
    reason = clause(data.get("reason"))
    if reason == "gone":
        why = ": its receiver answered 410 Gone"
    elif reason == "failing":
        duration = how_long(moment(data.get("failingSince")), at)
        why = (f": it has failed for {duration}" if duration else ": it failed for too long") + _attempts(
            data
        )
    else:
        why = _part(": {}", reason)
    return _endpoint(data) + " disabled" + why


def _endpoint_enabled(data: Data, _at: datetime) -> str:
    return _endpoint(data) + " enabled"


def _test(data: Data, _at: datetime) -> str:
    return (
        "Test event"
        + _part(" for webhook endpoint {}", _id(data, "endpointId"))
        + _part(": {}", clause(data.get("message")))
    )


_SENTENCES: Final[Mapping[str, Sentence]] = {
    "subscription_created": _created,
    "subscription_activated": _activated,
    "subscription_updated": _updated,
    "subscription_plan_changed": _plan_changed,
    "subscription_paused": _paused,
    "subscription_resumed": _resumed,
    "subscription_past_due": _past_due,
    "subscription_recovered": _recovered,
    "subscription_unpaid": _unpaid,
    "subscription_expired": _expired,
    "subscription_cancelled": _cancelled,
    "subscription_payment_success": _paid,
    "subscription_payment_failed": _failed,
    "subscription_payment_recovered": _payment_recovered,
    "subscription_payment_refunded": _refunded,
    "subscription_payment_action_required": _action_required,
    "invoice_created": _invoice,
    "webhook_endpoint_failing": _endpoint_failing,
    "webhook_endpoint_disabled": _endpoint_disabled,
    "webhook_endpoint_enabled": _endpoint_enabled,
    "webhook_test": _test,
}


def _unknown(type_: str, data: Data) -> str:
    return (
        f"{text(type_) or 'An event'}"
        + _part(" of {}", _amount(data))
        + " (event type unknown to this version)"
    )


# Parts of sentences


def _part(pattern: str, value: str) -> str:
    """Returns an empty string when the value is empty."""
    return pattern.replace("{}", value) if value else ""


def _id(data: Data, key: str) -> str:
    return text(data.get(key), 40)


def _amount(data: Data) -> str:
    return money(data.get("amount"), data.get("currency"))


def _price(data: Data) -> str:
    return price(data.get("amount"), data.get("currency"), data.get("interval"))


def _period_end(data: Data) -> str:
    return when(data.get("currentPeriodEnd"))


def _periods(count: int) -> str:
    return f"{count:,} period{'' if count == 1 else 's'}"


def _failure(data: Data) -> str:
    return word(data.get("failureCode"))


def _payment(data: Data) -> str:
    return "Payment" + _part(" of {}", _amount(data)) + _part(" by {}", word(data.get("rail")))


def _attempt_number(data: Data) -> str:
    number = integer(data.get("attempt"))
    return f" at attempt {number:,}" if number is not None and number > 1 else ""


def _endpoint(data: Data) -> str:
    return "Webhook endpoint" + _part(" {}", _id(data, "endpointId"))


def _attempts(data: Data) -> str:
    count = integer(data.get("consecutiveFailures"))
    details = filter(
        None,
        (
            "" if count is None else f"{count:,} attempt{'' if count == 1 else 's'}",
            _part("last: {}", clause(data.get("lastError"))),
        ),
    )
    return _part(" ({})", ", ".join(details))
