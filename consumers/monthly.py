"""What a price comes to in a month: the only place that says so. Exact until the end, then rounded half up to whole kobo.

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
"""By interval: how many of it are in a month, as a fraction."""


def monthly(amount: int, interval: str) -> int:
    """Of an amount that is not negative, each `interval`. Raises KeyError for one that is none."""
    times, over = PER_MONTH[interval]
    return (2 * amount * times + over) // (2 * over)
