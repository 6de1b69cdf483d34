"""Checks input with one clear sentence per error. The database enforces the same rules as constraints."""

import re
from typing import Any, Final

from schema.billing.rows import CURRENCIES, MOST_KOBO
from schema.errors import InvalidInput

MOST_CYCLES: Final = 100_000
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")


def check_amount(amount: Any, what: str = "The amount") -> int:
    if type(amount) is not int:  # neither 5000.0 nor True
        raise InvalidInput(f"{what} must be a whole number of kobo (₦5,000.00 is 500000), not {amount!r}.")
    if not 1 <= amount <= MOST_KOBO:
        raise InvalidInput(f"{what} must be from 1 to {MOST_KOBO} kobo, not {amount}.")
    return amount


def check_whole(number: Any, what: str, least: int, most: int) -> int:
    if type(number) is not int or not least <= number <= most:
        raise InvalidInput(f"{what} must be a whole number from {least} to {most}, not {number!r}.")
    return number


def check_currency(currency: str) -> str:
    if currency not in CURRENCIES:
        raise InvalidInput(f"{currency!r} is not a known currency: use one of {', '.join(CURRENCIES)}.")
    return currency


def check_name(name: str, what: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidInput(f"{what} must have 1 to 200 printable characters.")
    return name


def check_email(email: str) -> str:
    """Returns it in lower case."""
    email = email.strip().lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise InvalidInput(f"{email!r} is not an e-mail address.")
    return email
