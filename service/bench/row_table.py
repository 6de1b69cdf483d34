"""The table of rows that `duro bench` can measure."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from typing import Final

from schema.errors import InvalidInput
from service.bench.bench_database import Shape
from service.bench.bench_setup import BenchSetup
from service.bench.load.payload import LARGE, SMALL
from service.bench.report.measurement import Measurement
from service.bench.rows.conditions import history, open_transaction, two_workers
from service.bench.rows.latency import AIMED_AT, latency
from service.bench.rows.memory import memory
from service.bench.rows.neighbours import neighbours
from service.bench.rows.page_depth import pages
from service.bench.rows.pipeline import pipeline
from service.bench.rows.producer_commits import producers
from service.bench.rows.projection_rates import projections, rebuild
from service.bench.rows.receiver_alone import receiver_alone
from service.bench.rows.recovery import recovery

Measure = Callable[[BenchSetup], Awaitable[list[Measurement]]]


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    description: str
    """For --help."""
    measure: Measure
    within_s: float
    """Time limit at full length. A row that exceeds it fails."""
    quick: bool = False
    """Whether `duro bench --quick` measures it by default."""


def _row(
    name: str,
    description: str,
    measure: Callable[..., Awaitable[list[Measurement]]],
    within_s: float,
    *,
    quick: bool = False,
) -> Row:
    return Row(name, description, partial(measure, row=name), within_s, quick)


def _pipelines() -> list[Row]:
    rows = []
    for tls, fan_out, size in product((False, True), (1, 5), (SMALL, LARGE)):
        name = "pipeline" + "-tls" * tls + "-x5" * (fan_out == 5) + "-8k" * (size == LARGE)
        description = (
            f"One worker's deliveries/s and CPU: fan-out {fan_out}, {size / 1000:g} KB, http{'s' * tls}."
        )
        measure = partial(pipeline, shape=Shape(fan_out, size, tls))
        rows.append(_row(name, description, measure, 400, quick=name == "pipeline"))
    return rows


def _latencies() -> list[Row]:
    return [
        _row(
            f"latency-{rate}",
            f"Commit to first byte at the receiver, p50 and p99, at {rate} events/s.",
            partial(latency, rate=rate),
            120,
            quick=rate == AIMED_AT,
        )
        for rate in (50, AIMED_AT, 1000)
    ]


ROWS: Final = (
    _row(
        "receiver",
        "Requests/s of the receiver alone: it is never the bottleneck.",
        receiver_alone,
        60,
        quick=True,
    ),
    *_pipelines(),
    *_latencies(),
    _row(
        "neighbours",
        "Deliveries/s and p99 of other endpoints while 10 % of endpoints hang.",
        neighbours,
        600,
        quick=True,
    ),
    _row("history", "Deliveries/s with many past deliveries (--history-rows), and with none.", history, 3600),
    _row(
        "open-transaction",
        "Deliveries/s while another transaction stays open.",
        open_transaction,
        300,
        quick=True,
    ),
    _row("producers", "Producers' commits/s with a worker, and without.", producers, 300),
    _row("memory", "Memory of a worker while it sends a million deliveries.", memory, 900),
    _row("workers", "Deliveries/s of two workers, and of one.", two_workers, 300),
    _row(
        "recovery",
        "Time from SIGKILL of a worker until its deliveries are settled.",
        recovery,
        200,
        quick=True,
    ),
    _row(
        "projections",
        "Events/s that the consumers of one worker apply together.",
        projections,
        600,
        quick=True,
    ),
    _row(
        "rebuild", "Deliveries/s during a rebuild of a projection, and the rate of the rebuild.", rebuild, 900
    ),
    _row("pages", "Time for page 500 of a list, and for page 1.", pages, 200, quick=True),
)


def select_rows(names: Sequence[str], *, quick: bool) -> list[Row]:
    """Returns rows by name or pattern, in table order.

    Without names: all, or the quick ones. Raises InvalidInput.
    """
    for name in names:
        if not any(fnmatchcase(row.name, name) for row in ROWS):
            near = get_close_matches(name, [row.name for row in ROWS], 1)
            hint = f"Did you mean {near[0]}?" if near else "duro bench --list shows all rows."
            raise InvalidInput(f"There is no row {name!r}. {hint}")
    if names:
        return [row for row in ROWS if any(fnmatchcase(row.name, name) for name in names)]
    return [row for row in ROWS if row.quick or not quick]
