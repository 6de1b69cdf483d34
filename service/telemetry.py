"""What a worker counts, for Prometheus. Labels are the mode and the consumer, never a tenant or an endpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.fanout import FANOUT
from schema import log
from schema.modes import Mode
from schema.partitions import partitions_ahead
from service.runtime import ModeParts, Worker

_COUNTERS: Final[dict[str, tuple[str, Callable[[ModeParts], int]]]] = {
    "duro_events_sequenced": ("Events this worker gave a position.", lambda m: m.sequencer.sequenced),
    "duro_events_fanned_out": ("Events this worker fanned out.", lambda m: m.fanout.applied),
    "duro_events_parked": ("Events this worker parked in dead_events.", lambda m: m.fanout.parked),
    "duro_deliveries_settled": ("Results of attempts written.", lambda m: m.settler.settled),
    "duro_settlements_fenced_off": ("Results that came after a take-over.", lambda m: m.settler.fenced_off),
}


@dataclass(frozen=True)
class DatabaseFacts:
    """What only the database knows, read at scrape time."""

    consumers: dict[Mode, list[log.ConsumerStatus]]
    partitions_ahead: dict[Mode, int]

    @classmethod
    async def read(cls, worker: Worker) -> "DatabaseFacts":
        pools = {mode: worker.database.data(mode) for mode in Mode}
        return cls(
            {mode: await log.consumer_status(pool, [FANOUT]) for mode, pool in pools.items()},
            {mode: await partitions_ahead(pool) for mode, pool in pools.items()},
        )


class _Scrape(Collector):
    def __init__(self, worker: Worker, facts: DatabaseFacts) -> None:
        self._worker = worker
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        for name, (help_, read) in _COUNTERS.items():
            counter = CounterMetricFamily(name, help_, labels=["mode"])
            for parts in self._worker.modes:
                counter.add_metric([parts.mode.value], read(parts))
            yield counter
        in_flight = GaugeMetricFamily(
            "duro_deliveries_in_flight", "Attempts under way here.", labels=["mode"]
        )
        for parts in self._worker.modes:
            in_flight.add_metric([parts.mode.value], parts.dispatcher.in_flight)
        yield in_flight
        yield CounterMetricFamily(
            "duro_leases_taken_over",
            "Deliveries this worker took over from dead ones.",
            value=self._worker.presence.taken_over,
        )
        yield from self._consumers()
        ahead = GaugeMetricFamily("duro_partitions_ahead_months", "Months ready ahead.", labels=["mode"])
        for mode, months in self._facts.partitions_ahead.items():
            ahead.add_metric([mode.value], months)
        yield ahead

    def _consumers(self) -> Iterator[Metric]:
        labels = ["mode", "consumer"]
        lag = GaugeMetricFamily(
            "duro_consumer_lag_events", "Events committed and not applied.", labels=labels
        )
        age = GaugeMetricFamily("duro_consumer_lag_seconds", "Age of the oldest of them.", labels=labels)
        dead = GaugeMetricFamily("duro_dead_events", "Events parked.", labels=labels)
        for mode, statuses in self._facts.consumers.items():
            for status in statuses:
                of = [mode.value, status.consumer]
                lag.add_metric(of, status.lag)
                age.add_metric(of, status.lag_seconds or 0)
                dead.add_metric(of, status.dead)
        yield from (lag, age, dead)


async def exposition(worker: Worker) -> bytes:
    """The text of one scrape. Raises what the database raises."""
    registry = CollectorRegistry()
    registry.register(_Scrape(worker, await DatabaseFacts.read(worker)))
    return generate_latest(registry)
