"""One scrape: the worker's metrics, and the database's facts if they can be read."""

from collections.abc import Iterator
from time import monotonic

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.worker.composition import Worker
from service.worker.telemetry.database_facts import DatabaseFacts, FactsReader
from service.worker.telemetry.database_metrics import database_metrics
from service.worker.telemetry.worker_metrics import worker_metrics


class Telemetry:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._reader = FactsReader(worker.database, worker.failures.part("metrics"))

    async def exposition(self) -> bytes:
        """Returns the text of one scrape. Without a database, its metrics are absent; the scrape does not fail."""
        registry = CollectorRegistry()
        registry.register(_Scrape(self._worker, await self._reader.facts()))
        return generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, worker: Worker, facts: DatabaseFacts) -> None:
        self._worker = worker
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield from worker_metrics(self._worker)
        yield from database_metrics(self._facts, monotonic())
