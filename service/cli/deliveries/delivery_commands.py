"""`duro delivery`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import click
from rich.console import Console

from schema.connections.database import Database
from schema.core import tenants
from schema.deliveries import delivery_history, replays
from schema.deliveries.delivery_history import STATUSES, Delivery, DeliveryDetail
from schema.deliveries.replays import SETTLED, UNDELIVERED, Replay
from schema.ids import DELIVERY, REPLAY, format_id
from schema.modes import Mode
from schema.pages import After, Page
from service.admin.endpoint_admin import require_endpoint
from service.admin.lookup import Location, locate_delivery
from service.admin.replay_jobs import ReplayJob, Selection, begin_replay, replay_one, unfinished
from service.admin.replay_shape import replay_shape
from service.admin.shapes import delivery_shape, page_shape, shown_delivery_shape
from service.cli import options
from service.cli.app import App, command, group
from service.cli.deliveries import replaying
from service.cli.deliveries.delivery_views import show_delivery, show_page
from service.cli.deliveries.replaying import read_span, run_job, show_job, span

_ID: Final = options.Id(DELIVERY)


@group("delivery")
def delivery() -> None:
    """Show and replay deliveries. A delivery is one event for one endpoint."""


@command(delivery, "list")
@options.tenant
@options.mode
@click.option("--status", type=click.Choice(STATUSES), help="Only deliveries in this state.")
@options.endpoint
@options.page
def list_(
    app: App, tenant: UUID, mode: Mode, status: str | None, endpoint: UUID | None, limit: int, after: After
) -> None:
    """List a tenant's deliveries in one mode, newest event first.

    \b
    Example:
      duro delivery list --tenant ten_… --mode live --status failed
    """

    async def find(database: Database) -> Page[Delivery]:
        await tenants.require(database.core, tenant)
        if endpoint is not None:
            await require_endpoint(database, endpoint, tenant, mode)
        return await delivery_history.list_deliveries(
            database.data(mode), tenant, status, endpoint, after, limit
        )

    page = app.with_database(find)
    app.result(page_shape(page, delivery_shape), lambda out: show_page(out, page))


@command(delivery, "show")
@click.argument("delivery_id", type=_ID)
def show(app: App, delivery_id: UUID) -> None:
    """Show one delivery with all its attempts. The id is enough, in either mode.

    \b
    Example:
      duro delivery show dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """

    async def find(database: Database) -> tuple[Location, DeliveryDetail]:
        location = await locate_delivery(database, delivery_id)
        return location, await delivery_history.show(location.pool, location.tenant_id, delivery_id)

    location, shown = app.with_database(find)
    app.result(
        shown_delivery_shape(shown, location.tenant, location.mode),
        lambda out: show_delivery(out, location, shown),
    )


@command(delivery, "replay")
@click.argument("delivery_id", type=_ID, required=False)
@click.option("--tenant", type=options.tenant_id, help="The tenant, to replay many deliveries.")
@click.option("--mode", type=options.ModeChoice(), help="The mode, to replay many deliveries.")
@span
@options.endpoint
@click.option(
    "--status",
    "statuses",
    type=click.Choice(SETTLED),
    multiple=True,
    help="Only deliveries in this state; may be repeated.  [default: failed and skipped]",
)
@click.option("--resume", "resumed", type=options.Id(REPLAY), help="Resume a replay that was stopped.")
def replay(
    app: App,
    delivery_id: UUID | None,
    tenant: UUID | None,
    mode: Mode | None,
    since: str | None,
    until: str | None,
    since_pos: int | None,
    until_pos: int | None,
    endpoint: UUID | None,
    statuses: Sequence[str],
    resumed: UUID | None,
) -> None:
    """Replay one delivery by its id, or all that failed or were skipped since a time or a position.

    A replay makes new attempts of the same delivery with the same event id, so receivers can ignore duplicates. It
    starts at once if a worker runs; new events go first. Deliveries that wait for a retry, and deliveries of disabled
    endpoints, are left out. A replay of many deliveries can be stopped and resumed at any time.

    \b
    Example:
      duro delivery replay dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
      duro delivery replay --tenant ten_… --mode live --since 24h
      duro delivery replay --tenant ten_… --mode live --since-pos 18467 --endpoint we_… --status failed
      duro delivery replay --resume rpl_…
    """
    events = read_span(since, until, since_pos, until_pos)
    others = any(
        (tenant, mode, since, until, since_pos is not None, until_pos is not None, endpoint, statuses)
    )
    if delivery_id is not None:
        if others or resumed:
            raise click.UsageError("A delivery's id takes no other options: leave them out.")
        _replay_one(app, delivery_id)
    elif resumed is not None:
        if others:
            raise click.UsageError("--resume takes no other options: leave them out.")
        _run(app, lambda database: unfinished(database, resumed))
    elif tenant is None or mode is None or events is None:
        raise click.UsageError(
            "Give a delivery's id, or --tenant, --mode and --since (or --since-pos) to replay many."
        )
    else:
        selection = Selection(tenant, mode, events, endpoint, statuses or UNDELIVERED)
        _run(app, lambda database: begin_replay(database, selection))


def _replay_one(app: App, delivery_id: UUID) -> None:
    was, waits_for = app.with_database(lambda database: replay_one(database, delivery_id))
    shown = format_id(DELIVERY, delivery_id)

    def show(out: Console) -> None:
        out.print(f"{shown} was {was} and is due now.")
        for sentence in waits_for:
            out.print(sentence)

    app.result({"id": shown, "was": was, "status": "pending"}, show)


def _run(app: App, find: Callable[[Database], Awaitable[ReplayJob]]) -> None:
    job = run_job(app, find)
    app.result(replay_shape(job.mode, job.replay), lambda out: show_job(out, job))


@command(delivery, "replays")
@options.tenant
@options.mode
@options.page
def replays_(app: App, tenant: UUID, mode: Mode, limit: int, after: After) -> None:
    """List a tenant's replays and backfills in one mode, newest first, with their progress.

    \b
    Example:
      duro delivery replays --tenant ten_… --mode live
    """

    async def find(database: Database) -> Page[Replay]:
        await tenants.require(database.core, tenant)
        return await replays.list_replays(database.data(mode), tenant, after, limit)

    page = app.with_database(find)
    app.result(
        page_shape(page, lambda found: replay_shape(mode, found)), lambda out: replaying.show_page(out, page)
    )
