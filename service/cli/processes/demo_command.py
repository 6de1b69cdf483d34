"""`duro demo`: runs the main job and checks the result."""

from pathlib import Path
from typing import Final

import click
import uvloop

from schema.errors import DuroError
from service.cli.app import App, command, database_errors, main
from service.database_access import open_database
from service.demo import demo_report
from service.demo.demo_database import DemoDatabase, demo_database
from service.demo.demo_run import MIN_EVENTS, Outcome, ProgressDisplay, run_demo
from service.demo.progress_display import no_progress, show_progress
from service.interrupts import interrupt_on_any_signal

_MAX_EVENTS: Final = 100_000


class DemoFailed(DuroError):
    """Some events were not delivered. The report lists them."""


@command(main, "demo")
@click.option(
    "--events",
    type=click.IntRange(MIN_EVENTS, _MAX_EVENTS),
    default=3000,
    show_default=True,
    help="Minimum number of events to commit, at up to 300 per second.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Keep the embedded database in this directory.  [default: a temporary directory, removed afterwards]",
)
def demo(app: App, events: int, data_dir: Path | None) -> None:
    """Demonstrate the main job: every committed event becomes a verified webhook, and no other event does.

    Plays the business of two demo_tenants on the billing engine. Some transactions are slow, some roll back, and one
    stays open. A receiver in a separate process verifies every webhook with independent code, and fails some on
    purpose. The exit status is 0 only if every committed event arrived, verified, at every subscribed endpoint, and
    no rolled-back event did.

    Uses the database in DURO_DATABASE_URL, or else an embedded PostgreSQL 16. In your own database two tenants with
    disabled endpoints remain; other workers on it must have DURO_EGRESS_ALLOW=127.0.0.0/8.

    \b
    Example:
      duro demo --events 500
    """
    interrupt_on_any_signal()
    with demo_database(app.settings, data_dir) as where:
        app.progress(f"Starting on {where.description}")
        outcome = _run(app, where, events)
        if not outcome.verdict.passed:
            where.persistent = True
    app.result(
        demo_report.as_json(outcome, where.environment),
        lambda out: demo_report.print_report(outcome, where.environment, out),
    )
    if not outcome.verdict.passed:
        raise DemoFailed(f"The demo failed. {outcome.verdict.problems[0].what}")


def _run(app: App, where: DemoDatabase, events: int) -> Outcome:
    with open_database(where.settings, app.progress) as base, database_errors():
        return uvloop.run(
            run_demo(base, events, persistent=where.persistent, progress=_progress_display(app, events))
        )


def _progress_display(app: App, events: int) -> ProgressDisplay:
    if app.json:
        return no_progress
    return lambda observed: show_progress(observed, app.err, events)
