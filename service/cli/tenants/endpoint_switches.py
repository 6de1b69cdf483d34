"""`duro endpoint enable | disable | pause | resume`.

disabled   its deliveries are skipped; an event is recorded
paused     its deliveries wait
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import click
from rich.console import Console

from schema.connections.database import Database
from schema.core.endpoints import Endpoint
from schema.deliveries import replays
from schema.deliveries.replays import SkippedCount
from schema.errors import Conflict
from schema.ids import ENDPOINT, TENANT, format_id
from schema.timestamps import iso_millis
from service.admin.endpoint_admin import endpoint_admin
from service.admin.replay_jobs import ReplayJob, replay_skipped
from service.admin.replay_shape import replay_shape
from service.admin.shapes import endpoint_shape
from service.cli.app import App, command
from service.cli.deliveries.replaying import run_job, show_job
from service.cli.tenants.endpoint_group import ID, administer, endpoint, show_changed
from service.cli.tenants.endpoint_views import show_endpoint
from service.interrupts import interrupt_on_any_signal

_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


@command(endpoint, "enable")
@click.argument("endpoint_id", type=ID)
@click.option("--replay", "at_once", is_flag=True, help="Also replay the deliveries that were skipped.")
def enable(app: App, endpoint_id: UUID, *, at_once: bool) -> None:
    """Re-enable an endpoint. Prints how many deliveries were skipped, and how to replay them.

    \b
    Example:
      duro endpoint enable we_…
      duro endpoint enable we_… --replay
    """

    interrupt_on_any_signal()
    pending = _PendingReplay()

    async def run(database: Database) -> tuple[Endpoint, SkippedCount]:
        async with endpoint_admin(app.settings, database) as admin:
            pending.endpoint = await admin.show(endpoint_id)
            try:
                enabled = await admin.enable(endpoint_id)
            except Conflict:
                pending.endpoint = None
                raise
        assert enabled.disabled_at is not None
        data = database.data(enabled.mode)
        skipped = await replays.skipped_since(data, enabled.tenant_id, endpoint_id, enabled.disabled_at)
        pending.since = skipped.since or _EVER
        return enabled, skipped

    with _reporting_unfinished(pending):
        enabled, skipped = app.with_database(run)
        job = _replay(app, enabled, skipped, pending) if at_once else None
    app.result(
        {
            **endpoint_shape(enabled),
            "skipped": skipped.count,
            "skippedMore": skipped.more,
            "skippedSince": iso_millis(skipped.since) if skipped.since else None,
            "replay": replay_shape(job.mode, job.replay) if job else None,
        },
        lambda out: _show_enabled(out, enabled, skipped, job),
    )


@dataclass(slots=True)
class _PendingReplay:
    """The replay that remains if the command ends now; none without an endpoint."""

    endpoint: Endpoint | None = None
    """It may be enabled already, even if the answer was lost."""
    since: datetime = _EVER


@contextmanager
def _reporting_unfinished(pending: _PendingReplay) -> Iterator[None]:
    """Prints how to replay the rest when the command ends early, also by Ctrl-C."""
    try:
        yield
    except BaseException:
        if pending.endpoint is not None:
            line = _replay_line(pending.endpoint, pending.since)
            click.echo(
                f"duro: Once the endpoint is enabled, replay the skipped deliveries with: {line}", err=True
            )
        raise


def _replay(app: App, enabled: Endpoint, skipped: SkippedCount, pending: _PendingReplay) -> ReplayJob | None:
    since = skipped.since
    if since is None:
        return None

    async def begin(database: Database) -> ReplayJob:
        job = await replay_skipped(database, enabled, since)
        pending.endpoint = None  # from here on the job reports how to resume it
        return job

    return run_job(app, begin)


def _show_enabled(out: Console, enabled: Endpoint, skipped: SkippedCount, job: ReplayJob | None) -> None:
    show_endpoint(out, enabled)
    out.print()
    if job is not None:
        show_job(out, job)
    elif skipped.since is None:
        out.print("No deliveries were skipped while it was disabled.")
    else:
        least = "At least " if skipped.more else ""
        out.print(f"{least}{skipped.count:,} deliveries were skipped while it was disabled. To replay them:")
        out.print(f"  {_replay_line(enabled, skipped.since)}", soft_wrap=True)


def _replay_line(endpoint: Endpoint, since: datetime) -> str:
    return (
        f"duro delivery replay --tenant {format_id(TENANT, endpoint.tenant_id)} --mode {endpoint.mode} "
        f"--endpoint {format_id(ENDPOINT, endpoint.id)} --status skipped --since {iso_millis(since)}"
    )


@command(endpoint, "disable")
@click.argument("endpoint_id", type=ID)
@click.option(
    "--reason",
    default="disabled by an operator",
    show_default=True,
    help="The reason, recorded in the event.",
)
def disable(app: App, endpoint_id: UUID, reason: str) -> None:
    """Stop delivering to an endpoint. New deliveries are skipped, and can be replayed.

    \b
    Example:
      duro endpoint disable we_… --reason "moving to a new server"
    """
    show_changed(app, administer(app, lambda admin: admin.disable(endpoint_id, reason)))


@command(endpoint, "pause")
@click.argument("endpoint_id", type=ID)
def pause(app: App, endpoint_id: UUID) -> None:
    """Pause an endpoint: first attempts and retries wait. Attempts in flight are finished.

    Nothing is skipped: everything is delivered after duro endpoint resume.

    \b
    Example:
      duro endpoint pause we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """
    show_changed(app, administer(app, lambda admin: admin.pause(endpoint_id)))


@command(endpoint, "resume")
@click.argument("endpoint_id", type=ID)
def resume(app: App, endpoint_id: UUID) -> None:
    """Resume a paused endpoint. The deliveries that waited are sent.

    \b
    Example:
      duro endpoint resume we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """
    show_changed(app, administer(app, lambda admin: admin.resume(endpoint_id)))
