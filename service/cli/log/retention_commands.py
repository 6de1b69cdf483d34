"""`duro retention`."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import click
from rich.console import Console

from schema.connections.database import Database
from schema.modes import Mode
from schema.retention.retention_rules import Ages, Deletion
from schema.retention.retention_run import Outcome, Progress
from service.admin import retention_runs
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import table

F = TypeVar("F", bound=Callable[..., Any])
_Work = Callable[[str, Sequence[Mode], Ages, Progress], AsyncIterator[Outcome]]
_AGE: Final = options.Duration(timedelta(days=1), timedelta(days=36_500))
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


@group("retention")
def retention() -> None:
    """Delete old months of events, deliveries, attempts and the activity feed.

    Age alone deletes nothing. A month of events is kept while one of its events has no position, a consumer has not
    applied them all or has dead-lettered one, a delivery is pending, an attempt is not in the hourly rollups yet, or an
    unfinished replay can reach it. The output lists what is kept and why. Hourly rollups are always kept, and so is
    everything without an option.
    """


def _ages(function: F) -> F:
    """Gives the command `mode` and its four ages."""
    for decorate in (
        click.option("--mode", type=options.ModeChoice(), help="Only in this mode."),
        click.option("--activity", type=_AGE, help="Keep entries of the activity feed this long."),
        click.option("--attempts", type=_AGE, help="Keep attempts this long, at most as long as deliveries."),
        click.option(
            "--deliveries",
            type=_AGE,
            help="Keep deliveries this long, at most as long as events. A later backfill of a month without deliveries "
            "sends all its events again.",
        ),
        click.option(
            "--events", type=_AGE, help="Keep events this long, counted from the end of their month."
        ),
    ):
        function = decorate(function)
    return function


@command(retention, "plan")
@_ages
def plan(app: App, mode: Mode | None, **ages: timedelta | None) -> None:
    """Show what a run would delete, what it would keep, and why. Changes nothing.

    Needs the login of the database's owner in DURO_DATABASE_URL.

    \b
    Example:
      duro retention plan --events 400d --deliveries 400d --attempts 90d --activity 400d
    """
    _work(app, retention_runs.plan, mode, Ages(**ages), dry_run=True)


@command(retention, "run")
@_ages
@click.option("--dry-run", is_flag=True, help="The same as duro retention plan.")
def run(app: App, mode: Mode | None, dry_run: bool, **ages: timedelta | None) -> None:
    """Delete what is old enough and no longer needed. This cannot be undone: run duro retention plan first.

    Producers and workers continue meanwhile. A run can be stopped at any time, and the next run completes it. A reader
    that continues from a position before the deleted events gets an error that says so.

    Needs the login of the database's owner in DURO_DATABASE_URL.

    \b
    Example:
      duro retention run --events 400d --deliveries 400d --attempts 90d --activity 400d
    """
    _work(app, retention_runs.plan if dry_run else retention_runs.run, mode, Ages(**ages), dry_run=dry_run)


def _work(app: App, do: _Work, mode: Mode | None, ages: Ages, *, dry_run: bool) -> None:
    modes = [mode] if mode else list(Mode)
    outcomes: list[Outcome] = []

    async def collect(database: Database) -> None:
        async for outcome in do(database.url, modes, ages, app.progress):
            outcomes.append(outcome)  # noqa: PERF401  a later failure must not hide what was done

    try:
        app.with_database(collect)
    except BaseException:
        if outcomes:
            _show_outcomes(app, outcomes, dry_run=dry_run)
        raise
    _show_outcomes(app, outcomes, dry_run=dry_run)


def _show_outcomes(app: App, outcomes: Sequence[Outcome], *, dry_run: bool) -> None:
    app.result(
        {
            "dryRun": dry_run,
            "months": [_shape(outcome) for outcome in outcomes],
            "bytesFreed": 0 if dry_run else _freed(outcomes),
        },
        lambda out: _show(out, outcomes, dry_run=dry_run),
    )


def _shape(outcome: Outcome) -> dict[str, object]:
    candidate = outcome.candidate
    return {
        "mode": outcome.mode.value,
        "month": str(candidate.month),
        "what": candidate.kind.value,
        "deletion": candidate.deletion.value,
        "tables": [partition.name for partition in candidate.partitions],
        "bytes": candidate.bytes,
        "kept": list(outcome.kept),
    }


def _show(out: Console, outcomes: Sequence[Outcome], *, dry_run: bool) -> None:
    rows = [
        (
            outcome.mode,
            outcome.candidate.month,
            outcome.candidate.kind,
            _told(outcome.candidate.bytes),
            _fate(outcome, dry_run=dry_run),
        )
        for outcome in outcomes
    ]
    table(out, ("Mode", "Month", "What", "Size", "Action"), rows, none="No month is old enough.")
    if outcomes:
        freed = _told(_freed(outcomes))
        out.print(f"{freed} would be freed: duro retention run does it." if dry_run else f"{freed} freed.")


def _fate(outcome: Outcome, *, dry_run: bool) -> str:
    if outcome.kept:
        return f"kept: {'; '.join(outcome.kept)}"
    if dry_run:
        return f"would {outcome.candidate.deletion}"
    return {Deletion.DROP: "dropped", Deletion.EMPTY: "emptied"}[outcome.candidate.deletion]


def _freed(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.freed for outcome in outcomes)


def _told(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
