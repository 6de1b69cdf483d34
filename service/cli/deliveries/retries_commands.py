"""`duro retries`: the operator's switch of a mode."""

from rich.console import Console

from schema.connections.database import Database
from schema.deliveries import retry_switch
from schema.deliveries.retry_switch import COUNT_LIMIT, RetryStatus
from schema.errors import Conflict
from schema.modes import Mode
from schema.timestamps import iso_millis
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import fields


@group("retries")
def retries() -> None:
    """Pause and resume all retries, replays and backfills of a mode. First attempts continue."""


@command(retries, "pause")
@options.mode
def pause(app: App, mode: Mode) -> None:
    """Pause all retries, replays and backfills of a mode, in every worker. Attempts in flight are finished.

    \b
    Example:
      duro retries pause --mode live
    """

    async def run(database: Database) -> RetryStatus:
        if not await retry_switch.pause_retries(database.data(mode)):
            raise Conflict(f"Retries are already paused in mode {mode}.")
        return await retry_switch.retries(database.data(mode))

    _show_status(app, mode, app.with_database(run))


@command(retries, "resume")
@options.mode
def resume(app: App, mode: Mode) -> None:
    """Resume retries, replays and backfills of a mode. The ones that are due go first.

    \b
    Example:
      duro retries resume --mode live
    """

    async def run(database: Database) -> RetryStatus:
        if not await retry_switch.resume_retries(database.data(mode)):
            raise Conflict(f"Retries are not paused in mode {mode}.")
        return await retry_switch.retries(database.data(mode))

    _show_status(app, mode, app.with_database(run))


@command(retries, "status")
@options.mode
def status(app: App, mode: Mode) -> None:
    """Show whether retries are paused in a mode, and how many deliveries wait for one.

    \b
    Example:
      duro retries status --mode live
    """
    _show_status(app, mode, app.with_database(lambda database: retry_switch.retries(database.data(mode))))


def _show_status(app: App, mode: Mode, found: RetryStatus) -> None:
    app.result(
        {
            "mode": mode.value,
            "pausedAt": iso_millis(found.paused_at) if found.paused_at else None,
            "waiting": found.waiting,
        },
        lambda out: _show(out, mode, found),
    )


def _show(out: Console, mode: Mode, found: RetryStatus) -> None:
    more = " or more" if found.waiting == COUNT_LIMIT else ""
    state = f"paused since {iso_millis(found.paused_at)}" if found.paused_at else "running"
    fields(out, {"Mode": mode, "Retries": state, "Deliveries waiting": f"{found.waiting:,}{more}"})
