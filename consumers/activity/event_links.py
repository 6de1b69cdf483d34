"""Finds the rows that an event refers to, by the ids in its data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from schema.ids import CUSTOMER, ENDPOINT, INVOICE, PAYMENT, PAYMENT_METHOD, PLAN, SUBSCRIPTION, read_ulid
from schema.read_models.activity_feed import Subject

_PREFIXES: Final = {
    "subscriptionId": SUBSCRIPTION,
    "invoiceId": INVOICE,
    "paymentId": PAYMENT,
    "refundId": PAYMENT,
    "customerId": CUSTOMER,
    "planId": PLAN,
    "previousPlanId": PLAN,
    "paymentMethodId": PAYMENT_METHOD,
    "endpointId": ENDPOINT,
}
_LINKS: Final = tuple((key, key.removesuffix("Id"), f"{prefix}_") for key, prefix in _PREFIXES.items())
_INDEXED: Final = {"subscriptionId", "invoiceId", "paymentId", "customerId", "planId", "endpointId"}
"""Keys whose ids the feed can be filtered by."""
_SUBJECT_ORDER: Final = ("endpointId", "paymentId", "invoiceId", "subscriptionId", "planId", "customerId")
"""The first id present is the subject: an event about a payment also names its invoice."""
_SUBJECT_OF_TYPE: Final = {
    "subscription_created": "subscriptionId",
    "subscription_activated": "subscriptionId",
    "subscription_updated": "subscriptionId",
    "subscription_plan_changed": "subscriptionId",
    "subscription_paused": "subscriptionId",
    "subscription_resumed": "subscriptionId",
    "subscription_past_due": "subscriptionId",
    "subscription_recovered": "subscriptionId",
    "subscription_unpaid": "subscriptionId",
    "subscription_expired": "subscriptionId",
    "subscription_cancelled": "subscriptionId",
}
"""The key of the subject, for event types that name other rows as well."""
_FOREIGN_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_ULID: Final = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Links(NamedTuple):
    named: Mapping[str, str]
    """The role in the event to the id. Another product's ids may have any form."""
    subject: Subject | None
    """This and the next fields are None unless the id has the form of ours."""
    subscription: UUID | None
    invoice: UUID | None
    customer: UUID | None


def links_of(type_: str, data: Mapping[str, Any]) -> Links:
    named: dict[str, str] = {}
    ours: dict[str, UUID] = {}
    for key, name, prefix in _LINKS:
        value = data.get(key)
        if not isinstance(value, str):
            continue
        if value.startswith(prefix) and _ULID.fullmatch(ulid := value[len(prefix) :].upper()):
            named[name] = value
            if key in _INDEXED:
                ours[key] = read_ulid(ulid)
        elif _FOREIGN_ID.fullmatch(value):
            named[name] = value
    return Links(
        named,
        _subject((_SUBJECT_OF_TYPE.get(type_, ""), *_SUBJECT_ORDER), ours),
        ours.get("subscriptionId"),
        ours.get("invoiceId"),
        ours.get("customerId"),
    )


def _subject(keys: Sequence[str], ours: Mapping[str, UUID]) -> Subject | None:
    for key in keys:
        if key in ours:
            return Subject(_PREFIXES[key], ours[key])
    return None
