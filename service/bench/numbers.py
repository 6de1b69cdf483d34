"""The benchmark's arithmetic."""

from collections.abc import Sequence
from statistics import linear_regression, median

__all__ = ["median", "percentile", "ratio", "ratios", "slope"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` % of all do not exceed (nearest rank). Raises ValueError for no values."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank), 1) - 1]


def ratio(value: float, against: float) -> float | None:
    """None when there is nothing to compare with."""
    return value / against if against else None


def ratios(values: Sequence[float], against: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(values, against, strict=True) if other]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows with each x, by least squares; 0 when that cannot be told."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return linear_regression([x for x, _ in points], [y for _, y in points]).slope
