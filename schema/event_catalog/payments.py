"""Invoices, and the charges that are to pay them."""

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

_RAIL: Final[Fields] = {"rail": one_of(_RAILS, "How the money is moved.", "card")}
_PAYMENT: Final[Fields] = {
    "paymentId": id_of("pay", "The charge."),
    **INVOICE,
    **WHOSE,
    **amount("What was charged, or was to be."),
    **_RAIL,
    "attempt": count("Which charge of the invoice this is: 1 is the first.", 1, least=1),
}
_REASON: Final[Fields] = {"reason": text("What happened, in words.", "The account holds too little money.")}

PAYMENT_TYPES: Final = (
    event_type("subscription_payment_success", "A charge for a subscription succeeded.", _PAYMENT),
    event_type(
        "subscription_payment_failed",
        "A charge for a subscription failed.",
        {
            **_PAYMENT,
            **failure_code("Why it failed."),
            "responseCode": or_null(text("The bank's own code for that; null: there is none.", "51")),
            "nextAction": or_null(
                one_of(
                    _NEXT_ACTIONS,
                    "What is done about it; exhaust: no more is tried; null: nothing by itself.",
                    "retry_payday",
                )
            ),
            "nextAttemptAt": or_null(
                moment("When it is charged again; null: that is not planned.", "2026-06-30T09:00:00.000Z")
            ),
            "reason": or_null(
                text(
                    "Why that is done, in words; null where nothing is.",
                    "The account holds too little money; recovery waits for payday.",
                )
            ),
        },
    ),
    event_type(
        "subscription_payment_recovered",
        "A failed charge succeeded on a later try.",
        _PAYMENT | failure_code("Why the charge before had failed."),
        attempt=2,
    ),
    event_type(
        "subscription_payment_refunded",
        "A charge was refunded.",
        {
            "refundId": id_of("pay", "The refund.", ANOTHER_ULID),
            "paymentId": id_of("pay", "The charge that it refunds, in whole or in part."),
            **INVOICE,
            **WHOSE,
            "amount": money("What this refund gives back.", 200_000),
            "refundedAmount": money("What has been given back of the charge in all.", 350_000),
            "paidAmount": money("What was charged.", 500_000),
            "currency": currency("The currency of all three, by its ISO 4217 code."),
            **_RAIL,
        },
    ),
    event_type(
        "subscription_payment_action_required",
        "The customer must update the card.",
        {
            **INVOICE,
            **WHOSE,
            **amount("What is to be charged."),
            **failure_code("Why the card could not be charged.", "expired_card"),
            "deadline": moment("Until when the card can be updated.", "2026-07-05T09:00:00.000Z"),
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
            **amount("What is to be paid, the discount taken off."),
            "discount": money("What a promo code took off; 0: there was none.", 0),
            "periodStart": moment("When the period begins that it is for.", PERIOD_START),
            "periodEnd": moment("When that period ends.", PERIOD_END),
            "idempotencyKey": renewal_key(
                "Made of the subscription and the period's start; no two invoices of a merchant share it.",
                PERIOD_START,
            ),
        },
    ),
)
