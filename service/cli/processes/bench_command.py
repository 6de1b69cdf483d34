"""`duro bench`: measurements on this machine."""

import re
import time
from dataclasses import replace
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click
import uvloop

from schema.errors import DuroError
from service.bench.bench_run import Run, run_rows
from service.bench.bench_setup import Progress
from service.bench.processes.scratch_server import scratch_server
from service.bench.report import bench_report
from service.bench.report.result_file import require_writable, write_results
from service.bench.row_table import ROWS, Row, select_rows
from service.bench.scale import FULL, QUICK, Scale
from service.cli.app import App, command, database_errors, main
from service.interrupts import interrupt_on_any_signal

_LINE_EVERY_S: Final = 5.0
_NUMBERS: Final = re.compile("[0-9,]+")


class BenchFailed(DuroError):
    """A row could not be measured. A value that misses its aim is not a failure."""


@command(main, "bench")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--quick", is_flag=True, help="Shorter measurements; without names, only the main rows.")
@click.option("--list", "listed", is_flag=True, help="List the rows.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("bench.json"),
    show_default=True,
    help="File for the results as JSON, updated after each row.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also profile the worker of the main row with cProfile, write the profile here and print its top lines.",
)
@click.option(
    "--history-rows",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Past deliveries of the row `history`.  [default: {FULL.history}; with --quick {QUICK.history}]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory for the scratch database, which is removed afterwards.  [default: the temporary directory]",
)
def bench(
    app: App,
    names: tuple[str, ...],
    out: Path,
    profile: Path | None,
    history_rows: int | None,
    data_dir: Path | None,
    *,
    quick: bool,
    listed: bool,
) -> None:
    """Measure duro on this machine, each row as a ratio within one run.

    Without a NAME it measures all rows. On 2 cores this takes about 40 minutes; the row `history` needs 12 of them and
    20 GB of disk. With --quick it takes under 4 minutes. A NAME may be a pattern, as in 'pipeline*'. Everything runs on a
    scratch PostgreSQL with the defaults of the embedded server (fsync on), never on your database, and only on 127.0.0.1.

    The two sides of a comparison are measured in turn, and the median counts. The rate of a pipeline is the lower of
    two: arrivals at the receiver, and the time from the start until every result is in the database.

    The exit status is 0 when every row was measured, whether or not the aims were met. If it is stopped early (Ctrl-C,
    SIGTERM), the rows measured so far are in --out.

    \b
    Example:
      duro bench --quick pipeline latency-200
      duro bench '[!h]*'                           everything but history
      duro bench history --history-rows 1000000
    """
    if listed:
        _show_rows(app)
        return
    rows = select_rows(names, quick=quick)
    require_writable(out, "--out")
    if profile is not None:
        require_writable(profile, "--profile")
    interrupt_on_any_signal()
    scale = QUICK if quick else FULL
    if history_rows is not None:
        scale = replace(scale, history=history_rows)
    run = _run(app, rows, scale, data_dir, profile, out)
    app.result(bench_report.as_json(run), lambda console: bench_report.print_table(run, console))
    write_results(out, bench_report.as_json(run))
    if run.failed:
        raise BenchFailed(f"Not measured: {'; '.join(f'{name}: {why}' for name, why in run.failed.items())}")


def _row_list() -> str:
    return "\n".join(f"{row.name:<18} {row.description}" for row in ROWS)


bench.help = f"{cleandoc(bench.help or '')}\n\n\b\nRows:\n{_row_list()}"


def _run(
    app: App, rows: list[Row], scale: Scale, data_dir: Path | None, profile: Path | None, out: Path
) -> Run:
    def save_results(run: Run) -> None:
        try:
            write_results(out, bench_report.as_json(run))
        except DuroError as error:  # measuring continues: a later write may succeed
            app.progress(str(error))

    with scratch_server(data_dir, app.progress) as scratch, database_errors(), app.counting("") as counting:
        progress = counting if app.err.is_terminal else _throttled_progress(app)
        return uvloop.run(run_rows(scratch, rows, scale, progress, profile=profile, save=save_results))


def _throttled_progress(app: App) -> Progress:
    """Prints progress for a log file: the first line of each step, then one every few seconds."""
    printed_at, last_step = 0.0, ""

    def progress(line: str) -> None:
        nonlocal printed_at, last_step
        step, now = _NUMBERS.sub("", line), time.monotonic()
        if step != last_step or now - printed_at > _LINE_EVERY_S:
            printed_at, last_step = now, step
            app.progress(line)

    return progress


def _show_rows(app: App) -> None:
    value = {"rows": [{"name": row.name, "description": row.description, "quick": row.quick} for row in ROWS]}
    app.result(value, lambda out: out.print(_row_list()))
