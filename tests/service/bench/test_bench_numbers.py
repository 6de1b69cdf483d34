"""The benchmark's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.drain import arrival_rate
from service.bench.load.bench_receiver import Report
from service.bench.report.measurement import AtLeast, AtMost, Measurement, Verdict
from service.bench.report.numbers import percentile, ratio, ratios, slope

numbers = st.floats(-1e9, 1e9)


@given(st.lists(numbers, min_size=1), st.floats(0, 100))
def test_a_percentile_is_the_nearest_rank(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6
    assert sum(value < found for value in values) <= len(values) * percent / 100


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)])
def test_percentiles_of_one_to_a_hundred(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_percentile_needs_a_value() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


def test_a_ratio_to_zero_is_none() -> None:
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None
    assert ratios([3, 3], [2, 0]) == [1.5]


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(2, 50))
def test_points_on_a_line_have_its_slope(slope_: float, start: float, count: int) -> None:
    points = [(float(x), start + slope_ * x) for x in range(count)]
    assert slope(points) == pytest.approx(slope_, abs=1e-6)


def test_a_single_point_has_no_slope() -> None:
    assert slope([(1.0, 5.0)]) == 0


@pytest.mark.parametrize(
    ("value", "aim", "verdict"),
    [
        (2.0, AtLeast(2), Verdict.MET),
        (1.99, AtLeast(2), Verdict.NOT_MET),
        (5.0, AtMost(5, "ms"), Verdict.MET),
        (5.1, AtMost(5, "ms"), Verdict.NOT_MET),
        (None, AtLeast(2), Verdict.NOT_MET),
        (7.0, None, Verdict.REPORTED),
    ],
)
def test_an_aim_is_met_or_not(value: float | None, aim: AtLeast | AtMost | None, verdict: Verdict) -> None:
    assert Measurement("row", "what", "", value, aim).verdict is verdict


def test_a_goal_is_shown_but_does_not_affect_the_verdict() -> None:
    aim = AtLeast(1.5, goal=2)
    assert str(aim) == "≥ 1.5 (goal 2)"
    assert aim.judge(1.6) is Verdict.MET


def test_the_arrival_rate_leaves_out_both_ramps() -> None:
    """A tenth in the first ten seconds, then eight tenths in four, then a long tail."""
    second = 1_000_000_000
    report = Report(1000, 0, 0, 1, 0, 0, 0, 10 * second, 14 * second, 60 * second)
    assert arrival_rate(report) == 200
