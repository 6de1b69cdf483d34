"""Invoices and the charges for them."""

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
    count,
    id_of,
    moment,
    money,
    one_of,
    or_null,
    renewal_key,
    text,
)

_RAILS: Final = ("card", "ussd", "transfer", "virtual_account", "direct_debit")
_NEXT_ACTIONS: Final = ("exhaust", "request_card_update", "retry", "switch_rail", "retry_payday")

_RAIL: Final[Fields] = {"rail": one_of(_RAILS, "The rail of the charge.", "card")}
_PAYMENT: Final[Fields] = {
    "paymentId": id_of("pay", "The charge."),
    **INVOICE,
    **WHOSE,
    **amount("The amount charged or attempted."),
    **_RAIL,
    "attempt": count("The number of the charge for the invoice, from 1.", 1, least=1),
}
_REASON: Final[Fields] = {"reason": text("The reason as a sentence.", "The account has insufficient funds.")}

PAYMENT_TYPES: Final = (
    event_type("subscription_payment_success", "A charge for a subscription succeeded.", _PAYMENT),
    event_type(
        "subscription_payment_failed",
        "A charge for a subscription failed.",
        {
            **_PAYMENT,
            **failure_code("Why it failed."),
            "responseCode": or_null(text("The bank's code; null if there is none.", "51")),
            "nextAction": or_null(
                one_of(
                    _NEXT_ACTIONS,
                    "The next step of recovery; exhaust: no further charge; null: no recovery.",
                    "retry_payday",
                )
            ),
            "nextAttemptAt": or_null(
                moment("The time of the next charge; null if none is planned.", "2026-06-30T09:00:00.000Z")
            ),
            "reason": or_null(
                text(
                    "The reason for the next step as a sentence; null without one.",
                    "The account has insufficient funds; recovery waits for payday.",
                )
            ),
        },
    ),
    event_type(
        "subscription_payment_recovered",
        "A failed charge succeeded on a later try.",
        _PAYMENT | failure_code("The failure of the previous charge."),
        attempt=2,
    ),
    event_type(
        "subscription_payment_refunded",
        "A charge was refunded.",
        {
            "refundId": id_of("pay", "The refund.", ANOTHER_ULID),
            "paymentId": id_of("pay", "The charge that is refunded in whole or in part."),
            **INVOICE,
            **WHOSE,
            "amount": money("The amount of this refund.", 200_000),
            "refundedAmount": money("The total refunded of the charge.", 350_000),
            "paidAmount": money("The amount of the charge.", 500_000),
            "currency": currency("The currency of the three amounts as an ISO 4217 code."),
            **_RAIL,
        },
    ),
    event_type(
        "subscription_payment_action_required",
        "The customer must update the card.",
        {
            **INVOICE,
            **WHOSE,
            **amount("The amount to charge."),
            **failure_code("Why the card could not be charged.", "expired_card"),
            "deadline": moment("The deadline to update the card.", "2026-07-05T09:00:00.000Z"),
            **_REASON,
        },
        reason="The card has expired.",
    ),
    event_type(
        "invoice_created",
        "An invoice was created.",
        {
            **INVOICE,
            **WHOSE,
            **amount("The amount to pay after the discount."),
            "discount": money("The discount of a promo code; 0 without one.", 0),
            "periodStart": moment("The start of the invoiced period.", PERIOD_START),
            "periodEnd": moment("The end of the invoiced period.", PERIOD_END),
            "idempotencyKey": renewal_key(
                "Built from the subscription and the period's start; unique per merchant.",
                PERIOD_START,
            ),
        },
    ),
)
