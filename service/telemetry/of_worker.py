"""The metrics of one worker process. They need no database, so they are told while it is away."""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final, Protocol, runtime_checkable

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from schema.deliveries import Lane
from service.runtime import ModeParts, Worker
from service.telemetry.families import counter, gauge, histogram
from service.telemetry.of_database import lane_name

_PROCESS: Final = ProcessCollector(registry=None)
_COUNTS: Final[dict[str, tuple[str, Callable[[ModeParts], int]]]] = {
    "duro_events_sequenced": ("Events this worker gave a position.", lambda m: m.sequencer.sequenced),
    "duro_settlements_fenced_off": (
        "Results that came after another worker had taken the delivery over.",
        lambda m: m.settler.fenced_off,
    ),
}


@runtime_checkable
class CountsConnections(Protocol):
    """A sender that can tell."""

    @property
    def in_use(self) -> int: ...
    @property
    def idle(self) -> int: ...


def worker_metrics(worker: Worker) -> Iterator[Metric]:
    yield gauge(
        "duro_build_info",
        "Always 1; the version is in its label.",
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
        "Deliveries this worker made due again because the worker that held them was dead, or had let them go.",
        [],
        [([], worker.presence.taken_over)],
    )
    yield gauge(
        "duro_worker_registered",
        "1: the session that shows others that this worker lives is there.",
        [],
        [([], worker.presence.stands)],
    )
    yield gauge(
        "duro_part_failing_seconds",
        "For how long this part of the process has been failing without a success; 0: it is well.",
        ["part"],
        [([part.name], part.failing_seconds) for part in worker.failures],
    )
    yield counter(
        "duro_part_failures",
        "Failures of this part of the process, those that a retry mended included.",
        ["part"],
        [([part.name], part.total) for part in worker.failures],
    )
    yield from _connections(worker)
    yield from _PROCESS.collect()


def _consumers(worker: Worker) -> Iterator[Metric]:
    for name, help_, attribute in (
        ("duro_events_applied", "Events this worker applied for the consumer.", "applied"),
        (
            "duro_events_dead_lettered",
            "Events that this worker dead-lettered (in dead_events).",
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
        "Attempts made and recorded, by what happened.",
        ["mode", "outcome"],
        [([mode, outcome], count) for mode, tally in tallies for outcome, count in tally.outcomes.items()],
    )
    yield counter(
        "duro_deliveries_settled",
        "Results written, by what they mean for the delivery: delivered, failed and skipped end it, retry and kept do not.",
        ["mode", "verdict"],
        [([mode, verdict], count) for mode, tally in tallies for verdict, count in tally.verdicts.items()],
    )
    yield histogram(
        "duro_attempt_seconds",
        "How long each stage of an attempt took; a stage that did not happen is not counted.",
        ["mode", "stage"],
        [([mode, stage], taken) for mode, tally in tallies for stage, taken in tally.stages.items()],
    )


def _places(worker: Worker) -> Iterator[Metric]:
    capacities = [(m.mode.value, m.dispatcher.capacity) for m in worker.modes]
    yield gauge(
        "duro_deliveries_in_flight",
        "Attempts under way here.",
        ["mode", "lane"],
        [
            ([mode, lane_name(lane)], capacity.under_way[lane])
            for mode, capacity in capacities
            for lane in Lane
        ],
    )
    yield gauge(
        "duro_results_unwritten",
        "Attempts that ended here and whose results are not in the database yet; they hold their places.",
        ["mode"],
        [([mode], capacity.in_flight - sum(capacity.under_way.values())) for mode, capacity in capacities],
    )
    yield gauge(
        "duro_places",
        "How many attempts this worker has under way at most.",
        ["mode"],
        [([mode], capacity.places) for mode, capacity in capacities],
    )


def _connections(worker: Worker) -> Iterator[Metric]:
    if isinstance(worker.sender, CountsConnections):
        yield gauge(
            "duro_sender_connections",
            "Connections to receivers: in use, and kept open to be used again.",
            ["state"],
            [(["in_use"], worker.sender.in_use), (["idle"], worker.sender.idle)],
        )
    pools = worker.database.pools()
    yield gauge(
        "duro_database_connections",
        "Connections of this worker's pools to the database.",
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
        "The most that these pools open: DURO_DATABASE_CONNECTIONS less the one that shows that the worker lives.",
        ["schema"],
        [([schema], sum(pool.get_max_size() for pool in of_schema)) for schema, of_schema in pools.items()],
    )
