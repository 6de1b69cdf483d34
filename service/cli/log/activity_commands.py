"""`duro activity`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import click
from rich.console import Console

from consumers.event_type_matching import matches, validate_patterns
from schema.connections.database import Database, Executor
from schema.core import tenants
from schema.errors import InvalidInput
from schema.event_log import events
from schema.ids import CUSTOMER, ENDPOINT, EVENT, INVOICE, PAYMENT, SUBSCRIPTION, format_id, parse_id
from schema.modes import Mode
from schema.pages import After
from schema.read_models.activity_feed import Entry, Feed, FeedFilter, FeedPage, Subject
from schema.timestamps import iso_millis
from service.admin.activity_shape import feed_shape, problem
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import more, table
from service.times import parse_time

_SUBJECTS: Final = (SUBSCRIPTION, INVOICE, PAYMENT, ENDPOINT)


class _SubjectId(click.ParamType[Subject]):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Subject:  # noqa: ARG002
        if isinstance(value, Subject):
            return value
        kind = value.partition("_")[0]
        if kind not in _SUBJECTS:
            known = ", ".join(f"{prefix}_…" for prefix in _SUBJECTS)
            raise InvalidInput(f"{value!r} is not the id of a subject: use one of {known}.")
        return Subject(kind, parse_id(kind, value))


@group("activity")
def activity() -> None:
    """What happened to a tenant's subscriptions, invoices, payments and webhooks, one readable sentence per event."""


@command(activity, "list")
@options.tenant
@options.mode
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only events of this type, or of these: 'subscription_payment_*'; may be repeated.",
)
@click.option(
    "--subject",
    type=_SubjectId(),
    help="Only events about this subscription, invoice, payment (with its refunds) or endpoint: sub_…, inv_…, pay_… or we_….",
)
@click.option("--customer", type=options.Id(CUSTOMER), help="Only events of this customer.")
@click.option("--from", "since", metavar="24h|TIME", help="Only events after this time, or this long ago.")
@click.option("--until", metavar="1h|TIME", help="Only events before this time, or this long ago.")
@options.page
def list_(
    app: App,
    tenant: UUID,
    mode: Mode,
    types: Sequence[str],
    subject: Subject | None,
    customer: UUID | None,
    since: str | None,
    until: str | None,
    limit: int,
    after: After,
) -> None:
    """List events as readable sentences, newest first, with the present state of their deliveries.

    Workers write the feed shortly after each event. "As of" is the time up to which the feed is complete.

    \b
    Example:
      duro activity list --tenant ten_… --mode live --from 24h
      duro activity list --tenant ten_… --mode live --customer cus_… --type 'subscription_payment_*'
    """
    now = datetime.now(UTC)
    begins, ends = (None if text is None else parse_time(text, now) for text in (since, until))
    if begins is not None and ends is not None and begins >= ends:
        raise InvalidInput("--from must be before --until.")

    async def find(database: Database) -> FeedPage:
        await tenants.require(database.core, tenant)
        pool = database.data(mode)
        feed_filter = FeedFilter(await _matching(pool, types), subject, customer, begins, ends)
        return await Feed(pool, tenant).read(feed_filter, after, limit)

    feed = app.with_database(find)
    app.result(feed_shape(feed), lambda out: _show(out, feed))


async def _matching(data: Executor, patterns: Sequence[str]) -> Sequence[str] | None:
    if not patterns:
        return None
    known = await events.type_names(data)
    wanted = validate_patterns(patterns, known)
    return [name for name in known if matches(wanted, name)]


def _show(out: Console, feed: FeedPage) -> None:
    headings = ("When", "What happened", "Subject", "Customer", "Event")
    table(out, headings, map(_row, feed.page.items), none="No matching events.")
    out.print(f"As of {iso_millis(feed.as_of)}.", style="dim")
    more(out, feed.page)


def _row(entry: Entry) -> Sequence[object]:
    wrong = problem(entry.deliveries)
    return (
        entry.created_at,
        f"{entry.summary}\n! {wrong}" if wrong else entry.summary,
        format_id(*entry.subject) if entry.subject else None,
        format_id(CUSTOMER, entry.customer_id) if entry.customer_id else None,
        format_id(EVENT, entry.id),
    )
