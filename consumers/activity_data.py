"""What an event's data may tell, read with suspicion: producers record any JSON object, whatever the catalog says.

Each reader answers None, or "" where it is a part of a sentence, for what is missing or not of the kind that it should
be. None raises, and what any of them returns is bounded and safe to print.
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
    """Numbers that no computer's would hold are None. Empty for arrays a thousand deep, which Postgres alone can read."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = _read_patiently(data)
    return found if isinstance(found, dict) else {}


def _read_patiently(data: str) -> object:
    try:
        return json.loads(data, parse_int=_int_of_few_digits)
    except RecursionError:
        return None


def _int_of_few_digits(digits: str) -> int | None:
    return int(digits) if len(digits) < 40 else None


def text(value: object, longest: int = _LONGEST_TEXT) -> str:
    """On one line, without what could colour a terminal or turn the writing around, and without what a URL may hide."""
    if not isinstance(value, str):
        return ""
    cut = value[: 4 * longest]
    whole = len(cut) == len(value)
    if "://" in cut:
        if not whole:
            cut = _CUT_URL.sub("", cut)  # what comes before an @ that was cut off would look like its host
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
    """A code as people say it: `insufficient_funds` is insufficient funds."""
    return text(value, 40).replace("_", " ")


def clause(value: object) -> str:
    """A sentence as a part of another one."""
    return text(value).rstrip(".")


def integer(value: object) -> int | None:
    """One that a bigint holds. True is none, nor is 5.0: no float goes near money."""
    return value if type(value) is int and -_BIGINT <= value < _BIGINT else None


def currency(value: object) -> str:
    """Where none is named it is the naira."""
    if value is None:
        return DEFAULT_CURRENCY
    return value if isinstance(value, str) and _CURRENCY.fullmatch(value) else UNNAMED_CURRENCY


def money(amount: object, in_currency: object) -> str:
    known = integer(amount)
    if known is None:
        return ""
    named = currency(in_currency)
    if named == UNNAMED_CURRENCY:
        return f"{known:,} (of what currency is not known)"
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
    """28 Jun 2026 to 28 Jul 2026; with the time of day where it is less than two days."""
    if ends - begins < timedelta(days=2):
        return f"{day(begins)}, {begins:%H:%M} to {day(ends)}, {ends:%H:%M} UTC"
    return f"{day(begins)} to {day(ends)}"


def how_long(since: datetime | None, until: datetime) -> str:
    """In the largest unit of which there are two: `3 days`, `36 hours`."""
    if since is None or since > until:
        return ""
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
        if (count := (until - since) // length) >= 2:
            return f"{count:,} {unit}s"
    minutes = (until - since) // timedelta(minutes=1)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
