"""The benchmark's arithmetic."""

from collections.abc import Sequence
from statistics import linear_regression, median

__all__ = ["median", "percentile", "ratio", "ratios", "slope"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest value that `percent` % of all do not exceed (nearest rank).

    Raises ValueError if empty.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank), 1) - 1]


def ratio(value: float, against: float) -> float | None:
    """Returns None if `against` is zero."""
    return value / against if against else None


def ratios(values: Sequence[float], against: Sequence[float]) -> list[float]:
    """Returns the ratio of each round."""
    return [one / other for one, other in zip(values, against, strict=True) if other]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Returns the slope by least squares, or 0 for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return linear_regression([x for x, _ in points], [y for _, y in points]).slope
