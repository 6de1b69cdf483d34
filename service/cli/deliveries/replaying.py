"""Shared by commands that replay: the range of events, a job's progress, and the command that resumes it."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
from rich.console import Console

from schema.connections.database import Database
from schema.deliveries.replays import PositionRange, Replay, ReplayKind, TimeRange
from schema.errors import DuroError
from schema.ids import REPLAY, format_id
from schema.pages import Page
from service.admin.replay_jobs import ReplayJob, blockers, resume
from service.cli.app import App
from service.cli.views import more, table
from service.interrupts import interrupt_on_any_signal
from service.times import parse_time

F = TypeVar("F", bound=Callable[..., Any])
_HIGHEST_POS: Final = 2**63 - 1


def span(function: F) -> F:
    """Adds the options `since`, `until`, `since_pos` and `until_pos`, for `read_span`."""
    position = click.IntRange(0, _HIGHEST_POS)
    for option in (
        click.option(
            "--until-pos", type=position, help="… up to this position.  [default: the end of the log]"
        ),
        click.option("--since-pos", type=position, help="Events after this position; 0 for all."),
        click.option("--until", metavar="1h|TIME", help="… and older than this.  [default: now]"),
        click.option("--since", metavar="24h|TIME", help="Events younger than this."),
    ):
        function = option(function)
    return function


def read_span(
    since: str | None, until: str | None, since_pos: int | None, until_pos: int | None
) -> TimeRange | PositionRange | None:
    """None when neither --since nor --since-pos is given. Raises UsageError, and InvalidInput for an invalid time."""
    by_time, by_position = (since, until) != (None, None), (since_pos, until_pos) != (None, None)
    if by_time and by_position:
        raise click.UsageError("Times and positions exclude each other: use one kind.")
    if since is not None:
        now = datetime.now(UTC)
        return TimeRange(parse_time(since, now), None if until is None else parse_time(until, now))
    return None if since_pos is None else PositionRange(since_pos, until_pos)


def run_job(app: App, find: Callable[[Database], Awaitable[ReplayJob]]) -> ReplayJob:
    """Runs the job to its end. If it stops earlier, prints the command that resumes it."""
    interrupt_on_any_signal()
    begun: ReplayJob | None = None

    async def run(database: Database) -> ReplayJob:
        nonlocal begun
        begun = await find(database)
        app.progress(f"Replay {format_id(REPLAY, begun.replay.id)} in mode {begun.mode}")
        if not app.json:
            for sentence in await blockers(database, begun.mode, begun.replay.endpoint_id):
                app.err.print(sentence)
        progress = _Progress(begun.replay)
        with app.counting("Replaying") as count:
            async for replay in resume(database, begun):
                begun = ReplayJob(begun.mode, replay)
                count(progress.line(replay))
        return begun

    try:
        return app.with_database(run)
    except DuroError as error:
        if begun is None:
            raise
        raise type(error)(f"{error} Then resume with: {_resume_command(begun)}") from None
    except BaseException:  # Ctrl-C and other signals, or a defect, whose traceback follows
        if begun is not None:
            click.echo(f"duro: Stopped. Resume with: {_resume_command(begun)}", err=True)
        raise


def _resume_command(job: ReplayJob) -> str:
    return f"duro delivery replay --resume {format_id(REPLAY, job.replay.id)}"


class _Progress:
    """The progress of a job, with this process's rate."""

    def __init__(self, before: Replay) -> None:
        self._before = before.examined
        self._began = time.monotonic()

    def line(self, replay: Replay) -> str:
        rate = (replay.examined - self._before) / max(time.monotonic() - self._began, 0.001)
        return f"Replaying: {replay.replayed:,} of {replay.examined:,} examined, {rate:,.0f} per second, {replay.progress:.0%} done"


def show_job(out: Console, job: ReplayJob) -> None:
    replay = job.replay
    if replay.kind is ReplayKind.BACKFILL:
        out.print(f"{replay.replayed:,} deliveries created for {replay.examined:,} events.")
    else:
        out.print(f"{replay.replayed:,} of {replay.examined:,} deliveries replayed.")
    if replay.skipped:
        out.print(f"{replay.skipped:,} were skipped because their endpoints are disabled.")


def show_page(out: Console, page: Page[Replay]) -> None:
    rows = [
        (
            format_id(REPLAY, r.id),
            r.kind,
            _state(r),
            f"{r.replayed:,}",
            f"{r.examined:,}",
            _range(r),
            r.created_at,
        )
        for r in page.items
    ]
    headings = ("Replay", "Kind", "State", "Replayed", "Examined", "Events", "Started")
    table(out, headings, rows, none="No replays.")
    if any(r.finished_at is None for r in page.items):
        out.print("To resume one that was stopped: duro delivery replay --resume rpl_…")
    more(out, page)


def _state(replay: Replay) -> str:
    return "finished" if replay.finished_at else f"UNFINISHED, {replay.progress:.0%}"


def _range(replay: Replay) -> str:
    if replay.since is not None:
        return f"{replay.since:%Y-%m-%d %H:%M:%S} to {replay.until:%Y-%m-%d %H:%M:%S} UTC"
    return f"{replay.after_pos} to {replay.until_pos}"
