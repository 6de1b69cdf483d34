"""`duro retries`: the operator's switch of a mode."""

from rich.console import Console

from schema import switches
from schema.database import Database
from schema.errors import Conflict
from schema.modes import Mode
from schema.switches import MOST_COUNTED, Retries
from schema.timestamps import iso_millis
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import fields


@group("retries")
def retries() -> None:
    """Pause and resume what is not fresh: all retries, replays and backfills of a mode. First attempts go on."""


@command(retries, "pause")
@options.mode
def pause(app: App, mode: Mode) -> None:
    """Let all retries, replays and backfills of a mode wait, in every worker. Attempts under way end as they do.

    \b
    Example:
      duro retries pause --mode live
    """

    async def run(database: Database) -> Retries:
        if not await switches.pause_retries(database.data(mode)):
            raise Conflict(f"Retries are paused in mode {mode} already.")
        return await switches.retries(database.data(mode))

    _tell(app, mode, app.with_database(run))


@command(retries, "resume")
@options.mode
def resume(app: App, mode: Mode) -> None:
    """Let them go again; what has come due meanwhile goes first.

    \b
    Example:
      duro retries resume --mode live
    """

    async def run(database: Database) -> Retries:
        if not await switches.resume_retries(database.data(mode)):
            raise Conflict(f"Retries are not paused in mode {mode}.")
        return await switches.retries(database.data(mode))

    _tell(app, mode, app.with_database(run))


@command(retries, "status")
@options.mode
def status(app: App, mode: Mode) -> None:
    """Show whether retries go in a mode, and how many deliveries wait for one.

    \b
    Example:
      duro retries status --mode live
    """
    _tell(app, mode, app.with_database(lambda database: switches.retries(database.data(mode))))


def _tell(app: App, mode: Mode, found: Retries) -> None:
    app.result(
        {
            "mode": mode.value,
            "pausedAt": iso_millis(found.paused_at) if found.paused_at else None,
            "waiting": found.waiting,
        },
        lambda out: _show(out, mode, found),
    )


def _show(out: Console, mode: Mode, found: Retries) -> None:
    more = " or more" if found.waiting == MOST_COUNTED else ""
    state = f"paused since {iso_millis(found.paused_at)}" if found.paused_at else "going"
    fields(out, {"Mode": mode, "Retries": state, "Waiting for one": f"{found.waiting:,}{more}"})
