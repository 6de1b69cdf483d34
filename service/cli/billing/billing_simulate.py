"""`duro billing simulate`: a business played through time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from typing import Any, Final

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from schema.connections.database import Database
from schema.ids import TENANT, format_id
from schema.timestamps import iso_millis
from service.cli.app import App, command, database_errors
from service.cli.billing.billing_group import billing
from service.database_access import open_database
from service.simulation.simulation_setup import SIMULATING, Plot, Progress, Show, Story, play
from service.worker.signals import stop_on_signals

_LINE_EVERY_EVENTS: Final = 5_000


def _a_number(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if isnan(value):  # which no bound refuses
        raise click.BadParameter("nan is not a number.", ctx=ctx, param=param)
    return value


@command(billing, "simulate")
@click.option(
    "--tenants", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Number of merchants."
)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="Days of history.")
@click.option(
    "--speed",
    type=click.FloatRange(0, 1e9),
    callback=_a_number,
    default=0,
    help="Simulated seconds per second: 86400 is a day per second.  [default: as fast as possible]",
)
@click.option(
    "--signups",
    type=click.FloatRange(0.01, 10_000),
    callback=_a_number,
    default=0.1,
    show_default=True,
    help="New customers per merchant and day, on average; merchants differ.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="The same seed gives the same people and decisions.",
)
def simulate(app: App, tenants: int, days: int, speed: float, signups: float, seed: int) -> None:
    """Simulate merchants and customers over time: signups, trials, renewals, failures, recoveries, refunds, plan changes.

    Creates merchants with plans and payment links in both modes, and a history of --days that ends now. The real
    billing engine writes every row and event, by a virtual clock. Events carry the simulated time and are delivered like
    all others. Ctrl-C stops it cleanly and keeps what was simulated so far. No money moves.

    The tenants and subscriptions stay. duro billing run bills them by the real clock.

    \b
    Example:
      duro billing simulate --tenants 200 --days 365
    """
    plot = Plot(tenants, days, speed, signups, seed)
    with open_database(app.settings, app.progress) as base, database_errors():

        async def work(show: Show) -> Story:
            stop = stop_on_signals()
            if base.embedded:
                await base.migrate(app.progress)
            async with Database.open(base.url, base.key, name=SIMULATING, durable=False) as database:
                return await play(database, plot, show, stop)

        with _shown(app, plot) as show:
            story = uvloop.run(work(show))
    app.result(_shape(story), lambda out: _show(out, story))


@contextmanager
def _shown(app: App, plot: Plot) -> Iterator[Show]:
    """Bars on a terminal, an occasional line elsewhere, nothing with --json."""
    if app.json:
        yield lambda _progress: None
    elif app.err.is_terminal:
        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=app.err,
        ) as bars:
            task = bars.add_task("setting up", total=1, status="")
            yield lambda progress: bars.update(
                task,
                description=f"{progress.time:%Y-%m-%d}" if progress.share else "setting up",
                completed=progress.share or progress.setting_up / plot.tenants,
                status=f"{progress.customers:,} customers, {progress.events:,} events",
            )
    else:
        yield Lines(app.progress, plot).show


class Lines:
    def __init__(self, report: Callable[[str], None], plot: Plot) -> None:
        self._report = report
        self._plot = plot
        self._told_at = -1
        """Events; -1: the set-up is not reported yet."""

    def show(self, progress: Progress) -> None:
        if self._told_at < 0 and progress.setting_up == self._plot.tenants:
            self._told_at = 0
            self._report(
                f"{self._plot.tenants} merchant{'s are' if self._plot.tenants > 1 else ' is'} set up"
            )
        elif progress.events >= self._told_at + _LINE_EVERY_EVENTS:
            self._told_at = progress.events
            self._report(
                f"{progress.time:%Y-%m-%d}, {progress.share:.0%}: {progress.customers:,} customers, "
                f"{progress.events:,} events"
            )


def _shape(story: Story) -> dict[str, Any]:
    return {
        "begins": iso_millis(story.begins),
        "ends": iso_millis(story.ends),
        "seconds": round(story.seconds, 3),
        "cutShort": story.cut_short,
        "tenants": [format_id(TENANT, id_) for id_ in story.tenants],
        "customers": story.customers,
        "events": story.event_count,
        "eventsByType": dict(sorted(story.events.items())),
        "refused": story.refused,
    }


def _show(out: Console, story: Story) -> None:
    grid = Table(
        show_header=False, title=f"{story.begins:%Y-%m-%d} to {story.ends:%Y-%m-%d}", title_justify="left"
    )
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row("merchants", f"{len(story.tenants):,}")
    grid.add_row("customers signed up", f"{story.customers:,}")
    for name, count in sorted(story.events.items(), key=lambda each: -each[1]):
        grid.add_row(name, f"{count:,}")
    grid.add_row("events in all", f"{story.event_count:,}", style="bold")
    grid.add_row("seconds", f"{story.seconds:.1f}")
    out.print(grid)
    if story.cut_short:
        out.print(
            "It was stopped early. Its subscriptions have been due since then, and duro billing run would bill them now."
        )
    if story.tenants:
        out.print(f"Next: duro event list --tenant {format_id(TENANT, story.tenants[0])} --mode live")
