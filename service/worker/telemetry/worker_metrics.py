"""The metrics of one worker process. They need no database, so they are available during an outage."""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final, Protocol, runtime_checkable

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from schema.deliveries.deliveries import Lane
from service.worker.composition import ModeParts, Worker
from service.worker.telemetry.database_metrics import lane_name
from service.worker.telemetry.families import counter, gauge, histogram

_PROCESS: Final = ProcessCollector(registry=None)
_COUNTS: Final[dict[str, tuple[str, Callable[[ModeParts], int]]]] = {
    "duro_events_sequenced": ("Events that this worker gave a position.", lambda m: m.sequencer.sequenced),
    "duro_settlements_fenced_off": (
        "Results that arrived after another worker had taken over the delivery.",
        lambda m: m.settler.fenced_off,
    ),
}


@runtime_checkable
class CountsConnections(Protocol):
    """A sender that counts its connections."""

    @property
    def in_use(self) -> int: ...
    @property
    def idle(self) -> int: ...


def worker_metrics(worker: Worker) -> Iterator[Metric]:
    yield gauge(
        "duro_build_info",
        "Always 1. The label has the version.",
        ["version"],
        [([version("duro-webhooks")], 1)],
    )
    for name, (help_, read) in _COUNTS.items():
        yield counter(name, help_, ["mode"], [([m.mode.value], read(m)) for m in worker.modes])
    yield from _consumers(worker)
    yield from _attempts(worker)
    yield from _places(worker)
    yield counter(
        "duro_leases_taken_over",
        "Deliveries that this worker took over from a dead worker, or that were released without a result.",
        [],
        [([], worker.presence.taken_over)],
    )
    yield gauge(
        "duro_worker_registered",
        "1 if the session that shows that this worker is alive is open.",
        [],
        [([], worker.presence.session_is_open)],
    )
    yield gauge(
        "duro_part_failing_seconds",
        "How long this part of the process has been failing without a success; 0 if it works.",
        ["part"],
        [([part.name], part.failing_seconds) for part in worker.failures],
    )
    yield counter(
        "duro_part_failures",
        "Failures of this part of the process, including those fixed by a retry.",
        ["part"],
        [([part.name], part.total) for part in worker.failures],
    )
    yield from _connections(worker)
    yield from _PROCESS.collect()


def _consumers(worker: Worker) -> Iterator[Metric]:
    for name, help_, attribute in (
        ("duro_events_applied", "Events that this worker applied for the consumer.", "applied"),
        (
            "duro_events_dead_lettered",
            "Events that this worker dead-lettered.",
            "dead_lettered",
        ),
    ):
        yield counter(
            name,
            help_,
            ["mode", "consumer"],
            [
                ([m.mode.value, of], getattr(consumer, attribute))
                for m in worker.modes
                for of, consumer in m.consumers.items()
            ],
        )


def _attempts(worker: Worker) -> Iterator[Metric]:
    tallies = [(m.mode.value, m.settler.tally) for m in worker.modes]
    yield counter(
        "duro_attempts",
        "Attempts recorded, by outcome.",
        ["mode", "outcome"],
        [([mode, outcome], count) for mode, tally in tallies for outcome, count in tally.outcomes.items()],
    )
    yield counter(
        "duro_deliveries_settled",
        "Results written, by verdict: delivered, failed and skipped are final; retry and kept are not.",
        ["mode", "verdict"],
        [([mode, verdict], count) for mode, tally in tallies for verdict, count in tally.verdicts.items()],
    )
    yield histogram(
        "duro_attempt_seconds",
        "Duration of each stage of an attempt. A stage that did not happen is not counted.",
        ["mode", "stage"],
        [([mode, stage], taken) for mode, tally in tallies for stage, taken in tally.stages.items()],
    )


def _places(worker: Worker) -> Iterator[Metric]:
    capacities = [(m.mode.value, m.dispatcher.capacity) for m in worker.modes]
    yield gauge(
        "duro_deliveries_in_flight",
        "Attempts in flight.",
        ["mode", "lane"],
        [
            ([mode, lane_name(lane)], capacity.under_way[lane])
            for mode, capacity in capacities
            for lane in Lane
        ],
    )
    yield gauge(
        "duro_results_unwritten",
        "Attempts whose results are not in the database yet. They keep their slots.",
        ["mode"],
        [([mode], capacity.in_flight - sum(capacity.under_way.values())) for mode, capacity in capacities],
    )
    yield gauge(
        "duro_in_flight_limit",
        "The in-flight limit of this worker.",
        ["mode"],
        [([mode], capacity.slots) for mode, capacity in capacities],
    )


def _connections(worker: Worker) -> Iterator[Metric]:
    if isinstance(worker.sender, CountsConnections):
        yield gauge(
            "duro_sender_connections",
            "Connections to receivers: in use, and idle for reuse.",
            ["state"],
            [(["in_use"], worker.sender.in_use), (["idle"], worker.sender.idle)],
        )
    pools = worker.database.pools()
    yield gauge(
        "duro_database_connections",
        "Connections of this worker to the database.",
        ["schema", "state"],
        [
            ([schema, state], number)
            for schema, of_schema in pools.items()
            for idle in (sum(pool.get_idle_size() for pool in of_schema),)
            for state, number in (
                ("in_use", sum(pool.get_size() for pool in of_schema) - idle),
                ("idle", idle),
            )
        ],
    )
    yield gauge(
        "duro_database_connections_limit",
        "Maximum connections of this worker per schema; with its presence session they make DURO_DATABASE_CONNECTIONS.",
        ["schema"],
        [([schema], sum(pool.get_max_size() for pool in of_schema)) for schema, of_schema in pools.items()],
    )
