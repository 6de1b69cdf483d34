"""A subscription's life: each event tells the whole subscription as it is then, and what else belongs to the event."""

from typing import Final

from schema.event_catalog.billing import (
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
_STATUS: Final = "Where the subscription stands now."

_ANY_STATUS: Final[Fields] = {
    **WHOSE,
    "status": one_of(_STATUSES, _STATUS, "active"),
    **amount("What a period costs."),
    "interval": one_of(_INTERVALS, "How long a period is; biannual: six months.", "month"),
    "currentPeriodStart": moment("When the current period began.", PERIOD_START),
    "currentPeriodEnd": moment("When the current period ends.", PERIOD_END),
    "cycles": count("How many periods have been paid.", 3),
    "maxCycles": or_null(count("After how many periods it expires; null: never.", 12, least=1)),
    "cancelAtPeriodEnd": flag("Whether it is cancelled when the current period ends.", example=False),
    "paymentMethodId": or_null(id_of("pm", "The payment method that is charged; null: none is known.")),
}
_FAILED_INVOICE: Final = INVOICE | failure_code("Why its last charge failed.")


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
            "previousPlanId": id_of("plan", "The plan before."),
            "previousAmount": money("What a period cost before.", 500_000),
            "previousCurrency": currency("The previous amount's currency, by its ISO 4217 code."),
            "previousInterval": one_of(_INTERVALS, "How long a period was before.", "month"),
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
            "reason": text("Why it is not tried again, in words.", "4 charges failed within 14 days."),
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
                _CANCELLED_FOR, "Why; period_end: it was asked for earlier, for then.", "requested"
            ),
        },
    ),
)
