"""Reads what the rollups count from an event's data.

record_event() accepts any object. A value that is missing, or not in the catalog's form, is left empty. Nothing is guessed,
nothing raises, and no value is longer than a rollup's key allows.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from consumers import event_data
from consumers.rollups.monthly_price import PER_MONTH, monthly
from schema.errors import InvalidInput
from schema.ids import PLAN, SUBSCRIPTION, parse_id

NO_ID: Final = UUID(int=0)
MAX_AMOUNT: Final = 10**15
"""Minor units, the limit of the business tables. The sum of 1,000 such amounts still fits into a bigint."""
STATUSES: Final = frozenset(
    {
        *("incomplete", "incomplete_expired", "trialing", "active", "past_due"),
        *("paused", "unpaid", "canceled", "expired"),
    }
)
_CURRENCY: Final = re.compile("[A-Z]{3}")
_WORD: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_.:-]*")
_MAX_WORD_LENGTH: Final = 64
_MAX_ID_LENGTH: Final = 36
_DEFAULT_CURRENCY: Final = "NGN"


@dataclass(slots=True)  # one per event: not frozen, see schema/deliveries/deliveries.py
class EventFacts:
    plan_id: UUID
    """NO_ID when the data has none, as '' for the texts below."""
    rail: str
    failure_code: str
    currency: str
    amount: int | None
    """None without a currency."""
    subscription_id: UUID | None
    status: str
    mrr: int | None
    """The amount per month; None unless the data has a price and an interval."""
    reason: str


def read_facts(data: str) -> EventFacts:
    found = event_data.read(data)
    amount = _amount(found.get("amount"))
    currency = _currency_of(found.get("currency"), amount)
    amount = amount if currency else None
    status = found.get("status")
    return EventFacts(
        _id(PLAN, found.get("planId")) or NO_ID,
        _word(found.get("rail")),
        _word(found.get("failureCode")),
        currency,
        amount,
        _id(SUBSCRIPTION, found.get("subscriptionId")),
        status if type(status) is str and status in STATUSES else "",
        None if amount is None else _mrr(amount, found.get("interval")),
        _word(found.get("reason")),
    )


def _currency_of(value: object, amount: int | None) -> str:
    """Defaults to NGN for an amount without a currency."""
    if value is None and amount is not None:
        return _DEFAULT_CURRENCY
    return value if type(value) is str and len(value) == 3 and _is_currency(value) else ""


def _amount(value: object) -> int | None:
    """Accepts integers only: 1e30 is read as a float, and true is a bool."""
    return value if type(value) is int and 0 <= value <= MAX_AMOUNT else None


def _mrr(amount: int, interval: object) -> int | None:
    if type(interval) is not str or interval not in PER_MONTH:
        return None
    mrr = monthly(amount, interval)
    return mrr if mrr <= MAX_AMOUNT else None


def _id(prefix: str, value: object) -> UUID | None:
    return _parsed(prefix, value) if type(value) is str and len(value) <= _MAX_ID_LENGTH else None


def _word(value: object) -> str:
    return value if type(value) is str and len(value) <= _MAX_WORD_LENGTH and _is_word(value) else ""


@lru_cache(maxsize=65_536)
def _parsed(prefix: str, value: str) -> UUID | None:
    try:
        return parse_id(prefix, value)
    except InvalidInput:
        return None


@lru_cache(maxsize=4096)
def _is_word(value: str) -> bool:
    return _WORD.fullmatch(value) is not None


@lru_cache(maxsize=256)
def _is_currency(value: str) -> bool:
    return _CURRENCY.fullmatch(value) is not None
