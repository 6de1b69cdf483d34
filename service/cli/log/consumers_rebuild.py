"""`duro consumers rebuild`: rebuilds a projection from the log, beside the current one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

import asyncpg
import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from consumers.projection_handlers import NotBeingBuilt
from consumers.rebuild import DEFAULT_SHARE, Progress, Rebuild
from schema.connections.database import Database
from schema.durations import format_duration
from schema.errors import Conflict
from schema.modes import Mode
from schema.read_models.projections import abandon_rebuild, drop_generations
from service.cli import options
from service.cli.app import App, command
from service.cli.log.consumers_group import consumers
from service.interrupts import interrupt_on_any_signal
from service.worker.projection_consumers import PROJECTIONS, by_name

_LINE_EVERY: Final = 0.05


@command(consumers, "rebuild")
@click.argument("projection", type=click.Choice([each.name for each in PROJECTIONS]))
@click.option("--mode", type=options.ModeChoice(), required=True, help="The mode.")
@click.option(
    "--share",
    type=click.IntRange(1, 100),
    default=round(100 * DEFAULT_SHARE),
    show_default=True,
    help="Percentage of the time in which the rebuild works; deliveries have the rest.",
)
@click.option("--give-up", is_flag=True, help="Discard an unfinished rebuild.")
def rebuild(app: App, projection: str, mode: Mode, share: int, give_up: bool) -> None:
    """Rebuild a projection from the log, beside the current one, and replace it.

    The current projection stays in use and up to date until the new one has caught up; then the two are exchanged in
    one transaction. Ctrl-C stops the rebuild, and the same command resumes it. Events that cannot be applied are
    dead-lettered: see duro consumers status.

    \b
    Example:
      duro consumers rebuild rollups --mode live
      duro consumers rebuild activity --mode test --share 100
    """
    if give_up:
        gave_up = app.with_database(lambda database: _give_up(database, mode, projection))
        app.result(
            {"projection": projection, "mode": mode.value, "gaveUp": gave_up},
            lambda out: out.print(
                "The rebuild is discarded." if gave_up else "There was no unfinished rebuild."
            ),
        )
        return
    interrupt_on_any_signal()
    last: Progress | None = None

    async def run(database: Database) -> None:
        nonlocal last
        rebuilding = Rebuild(database.data(mode), by_name(projection), share / 100)
        try:
            async for last in rebuilding.run(asyncio.Event()):
                show(last)
        except NotBeingBuilt:
            raise _DiscardedElsewhere from None
        await _drop(database, mode, projection)

    try:
        with _shown(app, f"{projection} in {mode}") as show:
            app.with_database(run)
    except _DiscardedElsewhere:
        raise
    except BaseException:  # signals, the database's end, or a defect, whose traceback follows
        if last is not None and not last.finished:
            click.echo(f"duro: Stopped at {last.share:.0%}. The same command resumes there.", err=True)
        raise
    assert last is not None
    app.result(_shape(projection, mode, last), lambda out: _show(out, last))
    if last.dead:
        raise Conflict(
            f"{last.dead} events could not be applied and are dead-lettered: "
            f"see duro consumers status, then duro consumers retry-dead --consumer {projection} --mode {mode}."
        )


class _DiscardedElsewhere(Conflict):
    def __init__(self) -> None:
        super().__init__(
            "The rebuild was discarded by another command: start it again with the same command."
        )


async def _give_up(database: Database, mode: Mode, projection: str) -> bool:
    gave_up = await abandon_rebuild(database.data(mode), projection)
    await _drop(database, mode, projection)
    return gave_up


async def _drop(database: Database, mode: Mode, projection: str) -> None:
    """Drops generations that neither serve nor are being built. One that is being read is left to housekeeping."""
    with suppress(asyncpg.LockNotAvailableError):
        await drop_generations(database.data(mode), projection)


@contextmanager
def _shown(app: App, what: str) -> Iterator[Callable[[Progress], None]]:
    """Shows a bar on a terminal, an occasional line elsewhere, and nothing with --json."""
    if app.json:
        yield lambda _progress: None
    elif app.err.is_terminal:
        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            console=app.err,
        ) as bars:
            task = bars.add_task(f"Rebuilding {what}", total=1.0, status="")
            yield lambda progress: bars.update(task, completed=progress.share, status=_status(progress))
    else:
        yield _Lines(app.progress, what).show


class _Lines:
    def __init__(self, report: Callable[[str], None], what: str) -> None:
        self._report = report
        self._what = what
        self._status: float | None = None

    def show(self, progress: Progress) -> None:
        if self._status is None:
            how = f"resuming at {progress.share:.0%}" if progress.resumed else "from the beginning"
            self._report(f"Rebuilding {self._what}: {progress.total:,} events, {how}")
        elif progress.share < min(1.0, self._status + _LINE_EVERY) or progress.share == self._status:
            return
        else:
            self._report(f"{progress.share:.0%}: {_status(progress)}")
        self._status = progress.share


def _status(progress: Progress) -> str:
    status = (
        f"{progress.total - progress.left:,} of {progress.total:,} events, {progress.rate:,.0f} per second"
    )
    if progress.seconds_left:
        status += f", {format_duration(timedelta(seconds=round(progress.seconds_left)))} left"
    return status + (f", {progress.dead:,} DEAD-LETTERED" if progress.dead else "")


def _shape(projection: str, mode: Mode, last: Progress) -> dict[str, Any]:
    return {
        "projection": projection,
        "mode": mode.value,
        "events": last.applied,
        "perSecond": round(last.rate),
        "resumed": last.resumed,
        "dead": last.dead,
    }


def _show(out: Console, last: Progress) -> None:
    out.print(
        f"{last.applied:,} events applied, {last.rate:,.0f} per second. The rebuilt projection is now in use."
    )
