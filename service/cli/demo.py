"""`duro demo`: the main job, shown and judged."""

from pathlib import Path
from typing import Final

import click
import uvloop

from schema.errors import DuroError
from service.backbone import backbone
from service.cli.app import App, command, database_errors, main
from service.demo import report
from service.demo.place import Place, place
from service.demo.progress import no_progress, shown_progress
from service.demo.show import LEAST_EVENTS, Outcome, Watch, perform
from service.interrupts import interrupt_on_any_signal

_MOST_EVENTS: Final = 100_000


class DemoFailed(DuroError):
    """Some events were not delivered; the report says which."""


@command(main, "demo")
@click.option(
    "--events",
    type=click.IntRange(LEAST_EVENTS, _MOST_EVENTS),
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

    Plays the business of two merchants on the billing engine. Some transactions are slow, some roll back, and one
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
    with place(app.settings, data_dir) as where:
        app.progress(f"Starting on {where.told}")
        outcome = _perform(app, where, events)
        if not outcome.verdict.good:
            where.lasting = True
    app.result(
        report.as_json(outcome, where.environment), lambda out: report.show(outcome, where.environment, out)
    )
    if not outcome.verdict.good:
        raise DemoFailed(f"The demo failed. {outcome.verdict.problems[0].what}")


def _perform(app: App, where: Place, events: int) -> Outcome:
    with backbone(where.settings, app.progress) as base, database_errors():
        return uvloop.run(perform(base, events, lasting=where.lasting, watch=_watch(app, events)))


def _watch(app: App, events: int) -> Watch:
    if app.json:
        return no_progress
    return lambda board: shown_progress(board, app.err, events)
