"""Fields shared by subscriptions, invoices and payments."""

from typing import Final

from schema.event_catalog.field import Field, Fields, id_of, money, one_of

_CURRENCIES: Final = ("NGN", "GHS", "KES", "ZAR", "USD", "GBP", "EUR")
_FAILURE_CODES: Final = (
    "insufficient_funds",
    "expired_card",
    "card_not_supported",
    "do_not_honor",
    "stolen_card",
    "processor_error",
    "timeout",
)
PERIOD_START: Final = "2026-06-28T09:00:00.000Z"
PERIOD_END: Final = "2026-07-28T09:00:00.000Z"

WHOSE: Final[Fields] = {
    "subscriptionId": id_of("sub", "The subscription."),
    "customerId": id_of("cus", "The customer who subscribes."),
    "planId": id_of("plan", "The plan subscribed to."),
}
INVOICE: Final[Fields] = {"invoiceId": id_of("inv", "The invoice.")}


def currency(description: str = "The amount's currency as an ISO 4217 code.") -> Field:
    return one_of(_CURRENCIES, description, "NGN")


def amount(description: str) -> Fields:
    return {"amount": money(description, 500_000), "currency": currency()}


def failure_code(description: str, example: str = "insufficient_funds") -> Fields:
    return {"failureCode": one_of(_FAILURE_CODES, description, example)}
