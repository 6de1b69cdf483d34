"""What an event tells that is counted, whoever recorded it. record_event() takes any object: what is missing, or is not in
the catalog's form, counts as not told. Nothing is guessed, nothing raises, and no word is longer than a key may be.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from consumers import activity_data
from consumers.monthly import PER_MONTH, monthly
from schema.errors import InvalidInput
from schema.ids import PLAN, SUBSCRIPTION, parse_id

NO_ID: Final = UUID(int=0)
MOST: Final = 10**15
"""Kobo, as in the business tables: above it lies a mistake. A thousand of them still fit into a bigint."""
STATUSES: Final = frozenset(
    {
        *("incomplete", "incomplete_expired", "trialing", "active", "past_due"),
        *("paused", "unpaid", "canceled", "expired"),
    }
)
_CURRENCY: Final = re.compile("[A-Z]{3}")
_WORD: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_.:-]*")
_LONGEST: Final = 64
_LONGEST_ID: Final = 36
_DEFAULT_CURRENCY: Final = "NGN"


@dataclass(slots=True)  # one per event: not frozen, see schema/deliveries.py
class Told:
    plan_id: UUID
    """NO_ID: not told; as '' is among the words."""
    rail: str
    failure_code: str
    currency: str
    amount: int | None
    """Never without a currency."""
    subscription_id: UUID | None
    status: str
    mrr: int | None
    """What the amount comes to in a month; None where the event tells no price."""
    reason: str


def read(data: str) -> Told:
    found = activity_data.read(data)
    amount = _amount(found.get("amount"))
    currency = _currency_of(found.get("currency"), amount)
    amount = amount if currency else None
    status = found.get("status")
    return Told(
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
    """Naira where an amount comes without any."""
    if value is None and amount is not None:
        return _DEFAULT_CURRENCY
    return value if type(value) is str and len(value) == 3 and _is_currency(value) else ""


def _amount(value: object) -> int | None:
    """1e30 is read as a float, like whatever has a fraction; true is no number."""
    return value if type(value) is int and 0 <= value <= MOST else None


def _mrr(amount: int, interval: object) -> int | None:
    if type(interval) is not str or interval not in PER_MONTH:
        return None
    mrr = monthly(amount, interval)
    return mrr if mrr <= MOST else None


def _id(prefix: str, value: object) -> UUID | None:
    return _parsed(prefix, value) if type(value) is str and len(value) <= _LONGEST_ID else None


def _word(value: object) -> str:
    return value if type(value) is str and len(value) <= _LONGEST and _is_word(value) else ""


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
