"""Reads values from an event's data defensively: producers may record any JSON object, whatever the catalog says.

A value that is missing or malformed becomes None, or "" for a part of a sentence. No reader raises, and every result is
bounded in length and safe to print.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from schema.money import format_money

DEFAULT_CURRENCY: Final = "NGN"
UNNAMED_CURRENCY: Final = "?"
_BIGINT: Final = 2**63
_LONGEST_TEXT: Final = 120
_CURRENCY: Final = re.compile("[A-Z]{3}")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,20}://)(?:[^\s/?#@]*@)*([^\s/?#@]*)\S*")
_CUT_URL: Final = re.compile(r"\S*://\S*\Z")
_PERIODS: Final = {
    "hour": "an hour",
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "quarter": "a quarter",
    "biannual": "every six months",
    "year": "a year",
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def read(data: str) -> Mapping[str, Any]:
    """Returns the object. Integers of 40 digits and more become None; JSON nested too deeply for Python is read as empty."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = _read_slowly(data)
    return found if isinstance(found, dict) else {}


def _read_slowly(data: str) -> object:
    try:
        return json.loads(data, parse_int=_bounded_int)
    except RecursionError:
        return None


def _bounded_int(digits: str) -> int | None:
    return int(digits) if len(digits) < 40 else None


def text(value: object, longest: int = _LONGEST_TEXT) -> str:
    """Returns one line without control or bidirectional characters, and without credentials or paths of URLs."""
    if not isinstance(value, str):
        return ""
    cut = value[: 4 * longest]
    whole = len(cut) == len(value)
    if "://" in cut:
        if not whole:
            cut = _CUT_URL.sub("", cut)  # user info whose @ was cut off would look like the host
        cut = _URL.sub(r"\1\2/…", cut)
    if not cut.isprintable():
        cut = "".join(map(_printable, cut))
    words = " ".join(cut.split())
    return words if whole and len(words) <= longest else f"{words[: longest - 1]}…"


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "�"


def word(value: object) -> str:
    """Writes a code as words: `insufficient_funds` becomes insufficient funds."""
    return text(value, 40).replace("_", " ")


def clause(value: object) -> str:
    """Returns a sentence without its full stop, to be part of another one."""
    return text(value).rstrip(".")


def integer(value: object) -> int | None:
    """Accepts an int within bigint. Rejects booleans and floats: amounts are never floats."""
    return value if type(value) is int and -_BIGINT <= value < _BIGINT else None


def currency(value: object) -> str:
    """Defaults to NGN when the data has no currency."""
    if value is None:
        return DEFAULT_CURRENCY
    return value if isinstance(value, str) and _CURRENCY.fullmatch(value) else UNNAMED_CURRENCY


def money(amount: object, in_currency: object) -> str:
    known = integer(amount)
    if known is None:
        return ""
    named = currency(in_currency)
    if named == UNNAMED_CURRENCY:
        return f"{known:,} (unknown currency)"
    return format_money(known, named)


def price(amount: object, in_currency: object, interval: object) -> str:
    """₦5,000.00 a month."""
    period = _PERIODS.get(interval, "") if isinstance(interval, str) else ""
    return " ".join(filter(None, (money(amount, in_currency), period)))


def moment(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def when(value: object) -> str:
    """28 Jun 2026, 09:00 UTC."""
    found = moment(value)
    return f"{day(found)}, {found:%H:%M} UTC" if found else ""


def day(found: datetime) -> str:
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}"


def span(begins: datetime, ends: datetime) -> str:
    """28 Jun 2026 to 28 Jul 2026; with the time of day for spans under two days."""
    if ends - begins < timedelta(days=2):
        return f"{day(begins)}, {begins:%H:%M} to {day(ends)}, {ends:%H:%M} UTC"
    return f"{day(begins)} to {day(ends)}"


def how_long(since: datetime | None, until: datetime) -> str:
    """Uses the largest unit that counts at least two: `3 days`, `36 hours`."""
    if since is None or since > until:
        return ""
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
        if (count := (until - since) // length) >= 2:
            return f"{count:,} {unit}s"
    minutes = (until - since) // timedelta(minutes=1)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
