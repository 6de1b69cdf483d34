"""The life of a subscription: each event contains the whole subscription and the details of the event."""

from typing import Final

from schema.event_catalog.billing_fields import (
    INVOICE,
    PERIOD_END,
    PERIOD_START,
    WHOSE,
    amount,
    currency,
    failure_code,
)
from schema.event_catalog.event_type import event_type
from schema.event_catalog.field import (
    ANOTHER_ULID,
    Fields,
    always,
    count,
    flag,
    id_of,
    moment,
    money,
    one_of,
    or_null,
    text,
)

_STATUSES: Final = (
    "incomplete",
    "incomplete_expired",
    "trialing",
    "active",
    "past_due",
    "paused",
    "unpaid",
    "canceled",
    "expired",
)
_INTERVALS: Final = ("hour", "day", "week", "month", "quarter", "biannual", "year")
_CHANGES: Final = (
    "trial_started",
    "incomplete_expired",
    "cancellation_scheduled",
    "cancellation_withdrawn",
    "payment_method",
    "limit",
)
_CANCELLED_FOR: Final = ("requested", "period_end", "fraud", "other")
_STATUS: Final = "The current status of the subscription."

_ANY_STATUS: Final[Fields] = {
    **WHOSE,
    "status": one_of(_STATUSES, _STATUS, "active"),
    **amount("The price of a period."),
    "interval": one_of(_INTERVALS, "The length of a period; biannual: six months.", "month"),
    "currentPeriodStart": moment("The start of the current period.", PERIOD_START),
    "currentPeriodEnd": moment("The end of the current period.", PERIOD_END),
    "cycles": count("The number of paid periods.", 3),
    "maxCycles": or_null(count("The number of periods after which it expires; null: never.", 12, least=1)),
    "cancelAtPeriodEnd": flag(
        "Whether it will be cancelled at the end of the current period.", example=False
    ),
    "paymentMethodId": or_null(id_of("pm", "The payment method that is charged; null if none is known.")),
}
_FAILED_INVOICE: Final = INVOICE | failure_code("The failure of its last charge.")


def _always(status: str) -> Fields:
    return _ANY_STATUS | {"status": always(status, _STATUS)}


SUBSCRIPTION_TYPES: Final = (
    event_type(
        "subscription_created",
        "A subscription was created.",
        _always("incomplete"),
        cycles=0,
        maxCycles=None,
        paymentMethodId=None,
    ),
    event_type(
        "subscription_activated",
        "A trial converted or the first charge worked.",
        _always("active"),
        cycles=1,
    ),
    event_type(
        "subscription_updated",
        "A subscription's details changed.",
        _ANY_STATUS | {"change": one_of(_CHANGES, "What changed.", "cancellation_scheduled")},
        cancelAtPeriodEnd=True,
    ),
    event_type(
        "subscription_plan_changed",
        "A subscription moved to another plan.",
        {
            **_ANY_STATUS,
            "previousPlanId": id_of("plan", "The previous plan."),
            "previousAmount": money("The previous price of a period.", 500_000),
            "previousCurrency": currency("The previous amount's currency as an ISO 4217 code."),
            "previousInterval": one_of(_INTERVALS, "The previous length of a period.", "month"),
        },
        planId=f"plan_{ANOTHER_ULID}",
        amount=1_500_000,
    ),
    event_type("subscription_paused", "A subscription was paused.", _always("paused")),
    event_type("subscription_resumed", "A paused subscription was resumed.", _always("active")),
    event_type(
        "subscription_past_due",
        "A renewal failed and dunning has begun.",
        _always("past_due") | _FAILED_INVOICE,
    ),
    event_type(
        "subscription_recovered",
        "A past-due subscription is in good standing again.",
        _always("active") | INVOICE,
    ),
    event_type(
        "subscription_unpaid",
        "Dunning ran out without a payment.",
        {
            **_always("unpaid"),
            **_FAILED_INVOICE,
            "reason": text("Why recovery ended, as a sentence.", "4 charges failed within 14 days."),
        },
    ),
    event_type(
        "subscription_expired",
        "A subscription reached its last cycle.",
        _always("expired"),
        cycles=12,
    ),
    event_type(
        "subscription_cancelled",
        "A subscription was cancelled.",
        {
            **_always("canceled"),
            "reason": one_of(
                _CANCELLED_FOR,
                "The reason; period_end: requested earlier for the end of the period.",
                "requested",
            ),
        },
    ),
)
