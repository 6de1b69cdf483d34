"""`duro bench`: how fast it is, against what, on this machine."""

import re
import time
from dataclasses import replace
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click
import uvloop

from schema.errors import DuroError
from service.bench import report
from service.bench.catalog import ROWS, Row, chosen
from service.bench.ground import Watch
from service.bench.keeping import keep, require_writable
from service.bench.perform import Run, perform
from service.bench.scale import FULL, QUICK, Scale
from service.bench.scratch import scratch_server
from service.cli.app import App, command, database_errors, main
from service.interrupts import interrupt_on_any_signal

_LINE_EVERY_S: Final = 5.0
_NUMBERS: Final = re.compile("[0-9,]+")


class BenchFailed(DuroError):
    """Something could not be measured. A figure that falls short is no failure."""


@command(main, "bench")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--quick", is_flag=True, help="Shorter measurements; without names the main rows only.")
@click.option("--list", "listed", is_flag=True, help="Show the rows and stop.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("bench.json"),
    show_default=True,
    help="Where the figures go, as JSON, written anew after each row.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also run the main row's worker under cProfile, keep the profile there and show its top lines.",
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
    help="Where to put the scratch database, which is removed afterwards.  [default: the temporary directory]",
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

    Without a NAME all rows are measured, which on 2 cores takes about 30 minutes, 12 of them and 20 GB of disk for the
    row `history`; with --quick it is under 3 minutes. A NAME may be a pattern, as in 'pipeline*'. Everything runs on a
    scratch PostgreSQL with the embedded server's defaults (fsync on), never on a database of yours, and speaks to
    127.0.0.1 alone.

    What is compared is measured in turn and told by its median. A pipeline's figure is the lower of two: the rate of
    arrivals at the receiver, and the rate from standing start until everything is settled in the database.

    The exit status is 0 when all was measured, whether or not the aims were met. What ends it early (Ctrl-C, SIGTERM)
    leaves the rows measured until then in --out.

    \b
    Example:
      duro bench --quick pipeline latency-200
      duro bench '[!h]*'                           everything but history
      duro bench history --history-rows 1000000
    """
    if listed:
        _show_rows(app)
        return
    rows = chosen(names, quick=quick)
    require_writable(out, "--out")
    if profile is not None:
        require_writable(profile, "--profile")
    interrupt_on_any_signal()
    scale = QUICK if quick else FULL
    if history_rows is not None:
        scale = replace(scale, history=history_rows)
    run = _perform(app, rows, scale, data_dir, profile, out)
    app.result(report.as_json(run), lambda console: report.show(run, console))
    keep(out, report.as_json(run))
    if run.failed:
        raise BenchFailed(f"Not measured: {'; '.join(f'{name}: {why}' for name, why in run.failed.items())}")


def _rows_told() -> str:
    return "\n".join(f"{row.name:<18} {row.told}" for row in ROWS)


bench.help = f"{cleandoc(bench.help or '')}\n\n\b\nRows:\n{_rows_told()}"


def _perform(
    app: App, rows: list[Row], scale: Scale, data_dir: Path | None, profile: Path | None, out: Path
) -> Run:
    def keep_so_far(run: Run) -> None:
        try:
            keep(out, report.as_json(run))
        except DuroError as error:  # there may be room again at the end; measuring goes on
            app.progress(str(error))

    with scratch_server(data_dir, app.progress) as scratch, database_errors(), app.counting("") as counting:
        watch = counting if app.err.is_terminal else _now_and_then(app)
        return uvloop.run(perform(scratch, rows, scale, watch, profile=profile, keep=keep_so_far))


def _now_and_then(app: App) -> Watch:
    """Lines for a log rather than a terminal: the first of each kind, then one every few seconds."""
    said_at, said = 0.0, ""

    def watch(line: str) -> None:
        nonlocal said_at, said
        step, now = _NUMBERS.sub("", line), time.monotonic()
        if step != said or now - said_at > _LINE_EVERY_S:
            said_at, said = now, step
            app.progress(line)

    return watch


def _show_rows(app: App) -> None:
    value = {"rows": [{"name": row.name, "told": row.told, "quick": row.quick} for row in ROWS]}
    app.result(value, lambda out: out.print(_rows_told()))
