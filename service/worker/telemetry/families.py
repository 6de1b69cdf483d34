"""Builds a metric family from rows of (label values, number)."""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from delivery.engine.attempt_tally import BOUNDS_MS, Histogram

Rows = Iterable[tuple[Sequence[str], float]]


def counter(name: str, help_: str, labels: Sequence[str], rows: Rows) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def gauge(name: str, help_: str, labels: Sequence[str], rows: Rows) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def histogram(
    name: str, help_: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]
) -> HistogramMetricFamily:
    """Returns a bucket bound in seconds, the unit of Prometheus."""
    family = HistogramMetricFamily(name, help_, labels=labels)
    for values, counted in rows:
        family.add_metric(values, _cumulated(counted), counted.sum_ms / 1000)
    return family


def _cumulated(counted: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*BOUNDS_MS, float("inf")), counted.counts, strict=True):
        total += count
        buckets.append((_bound(bound / 1000), total))
    return buckets


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else repr(seconds)
