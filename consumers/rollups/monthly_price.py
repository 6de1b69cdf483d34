"""Converts a price to its amount per month, exactly, then rounded half up to whole minor units.

A year has 365 days and twelve equal months: 730 hours, 365/12 days, 365/84 weeks each.
"""

from collections.abc import Mapping
from typing import Final

PER_MONTH: Final[Mapping[str, tuple[int, int]]] = {
    "hour": (730, 1),
    "day": (365, 12),
    "week": (365, 84),
    "month": (1, 1),
    "quarter": (1, 3),
    "biannual": (1, 6),
    "year": (1, 12),
}
"""Intervals per month, as (numerator, denominator)."""


def monthly(amount: int, interval: str) -> int:
    """Returns the monthly amount of `amount` per `interval`. `amount` is not negative. Raises KeyError for an unknown interval."""
    times, over = PER_MONTH[interval]
    return (2 * amount * times + over) // (2 * over)
