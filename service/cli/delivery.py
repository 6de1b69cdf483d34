"""`duro delivery`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import click

from schema import delivery_history, tenants
from schema.database import Database
from schema.delivery_history import STATUSES, Delivery, ReplayStep, ShownDelivery
from schema.ids import DELIVERY, format_id
from schema.modes import Mode
from schema.pages import After, Page
from service.cli import options
from service.cli.app import App, command, group
from service.cli.delivery_views import show_delivery, show_page
from service.endpoint_admin import require_endpoint
from service.locating import Located, locate_delivery
from service.moments import parse_moment
from service.replay import Selection, replay_many, replay_one
from service.shapes import delivery_shape, page_shape, shown_delivery_shape

_ID: Final = options.Id(DELIVERY)
_SETTLED: Final = ("failed", "skipped", "delivered")


@group("delivery")
def delivery() -> None:
    """Look at deliveries, and replay them. A delivery is one event on its way to one endpoint."""


@command(delivery, "list")
@options.tenant
@options.mode
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this state.")
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
    """Show one delivery with all its attempts. The id is enough, whatever the mode.

    \b
    Example:
      duro delivery show dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """

    async def find(database: Database) -> tuple[Located, ShownDelivery]:
        located = await locate_delivery(database, delivery_id)
        return located, await delivery_history.show(located.pool, located.tenant_id, delivery_id)

    located, shown = app.with_database(find)
    app.result(
        shown_delivery_shape(shown, located.tenant, located.mode),
        lambda out: show_delivery(out, located, shown),
    )


@command(delivery, "replay")
@click.argument("delivery_id", type=_ID, required=False)
@click.option("--tenant", type=options.tenant_id, help="Which tenant, to replay many.")
@click.option("--mode", type=options.ModeChoice(), help="Which mode, to replay many.")
@click.option("--since", metavar="24h|TIME", help="Replay those whose events are younger than this.")
@click.option("--until", metavar="1h|TIME", help="… and older than this.  [default: now]")
@options.endpoint
@click.option(
    "--status",
    "statuses",
    type=click.Choice(_SETTLED),
    multiple=True,
    help="Only those in this state; may be repeated.  [default: failed and skipped]",
)
def replay(
    app: App,
    delivery_id: UUID | None,
    tenant: UUID | None,
    mode: Mode | None,
    since: str | None,
    until: str | None,
    endpoint: UUID | None,
    statuses: Sequence[str],
) -> None:
    """Deliver again: one delivery by its id, or all that failed or were skipped since a time.

    A replay makes new attempts of the same delivery, with the same event id, by which receivers tell that they have
    had it. It starts at once if a worker runs. Deliveries of disabled endpoints are left as they are. A bulk replay
    that was stopped half-way can be run again: what it has replayed is pending, and passed by until it is settled.

    \b
    Example:
      duro delivery replay dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
      duro delivery replay --tenant ten_… --mode live --since 24h
      duro delivery replay --tenant ten_… --mode live --since 2026-06-28T09:00:00Z --status failed
    """
    if delivery_id is not None:
        if any((tenant, mode, since, until, endpoint, statuses)):
            raise click.UsageError("A delivery's id is enough: leave the other options out.")
        _replay_one(app, delivery_id)
        return
    if tenant is None or mode is None or since is None:
        raise click.UsageError("Give a delivery's id, or --tenant, --mode and --since to replay many.")
    now = datetime.now(UTC)
    _replay_many(
        app,
        Selection(
            tenant,
            mode,
            parse_moment(since, now),
            now if until is None else parse_moment(until, now),
            endpoint,
            statuses or ("failed", "skipped"),
        ),
    )


def _replay_one(app: App, delivery_id: UUID) -> None:
    was = app.with_database(lambda database: replay_one(database, delivery_id))
    shown = format_id(DELIVERY, delivery_id)
    app.result(
        {"id": shown, "was": was, "status": "pending"},
        lambda out: out.print(f"{shown} was {was} and is due now."),
    )


def _replay_many(app: App, selection: Selection) -> None:
    async def run(database: Database) -> ReplayStep:
        total = ReplayStep(0, 0)
        with app.counting("Replaying") as count:
            async for total in replay_many(database, selection):
                count(f"Replaying: {total.replayed} of {total.seen} looked at")
        return total

    total = app.with_database(run)
    app.result(
        {"replayed": total.replayed, "seen": total.seen},
        lambda out: out.print(f"{total.replayed} of {total.seen} deliveries replayed."),
    )
