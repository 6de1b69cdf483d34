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
    """The main job was not done; the report says what is missing."""


@command(main, "demo")
@click.option(
    "--events",
    type=click.IntRange(LEAST_EVENTS, _MOST_EVENTS),
    default=3000,
    show_default=True,
    help="How many to commit, or a few more, at up to 300 a second.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Keep the embedded database there.  [default: a temporary directory, removed afterwards]",
)
def demo(app: App, events: int, data_dir: Path | None) -> None:
    """Show the main job: committed events become signed webhooks, none lost, none invented.

    Two merchants' business is played on the billing engine, by a clock that runs ahead, in transactions some of which are
    slow or rolled back, and one is left open throughout. A receiver in a process of its own verifies every webhook
    with code that is not duro's, and fails some on purpose. Exit status 0 only if every committed event arrived
    verified at every endpoint that should get it, and no rolled-back one did.

    With DURO_DATABASE_URL that database is used, otherwise an embedded PostgreSQL 16. In a database that stays, so do
    two tenants, their endpoints disabled; other workers on it must have DURO_EGRESS_ALLOW=127.0.0.0/8.

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
