"""The activity feed: one entry per event, written by its consumer and read by keyset pages.

migrations/data/0017_activity.sql describes the columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Connection, Executor
from schema.ids import INVOICE, SUBSCRIPTION
from schema.pages import After, Page, page
from schema.queries import load
from schema.read_models import projections

_SQL = load("activity")
ACTIVITY: Final = "activity"
DELIVERIES_COUNTED: Final = 100
"""Per event. Deliveries beyond this many are not counted."""
ENDPOINTS_LISTED: Final = 3


class NewEntry(NamedTuple):
    """In the order of the statement's columns."""

    id: UUID
    tenant_id: UUID
    created_at: datetime
    pos: int
    type: str
    summary: str
    subject_kind: str | None
    subject_id: UUID | None
    subscription_id: UUID | None
    invoice_id: UUID | None
    customer_id: UUID | None
    amount: int | None
    currency: str | None
    links: str
    """JSON."""


async def add(tx: Connection, generation: int, entries: Sequence[NewEntry]) -> None:
    """Adds the entries of one generation. An existing entry is kept unchanged."""
    await tx.execute(_SQL["add"], generation, *map(list, zip(*entries, strict=True)))


class Subject(NamedTuple):
    kind: str
    """The prefix of its id."""
    id: UUID


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Conditions that an entry must meet, all of them. By default there is none."""

    types: Sequence[str] | None = None
    subject: Subject | None = None
    """For a subscription or an invoice: every entry that refers to it. For others: entries with this subject."""
    customer_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    """The bounds are [since, until)."""


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """Counts of an event's deliveries by outcome at the time of reading."""

    total: int = 0
    failed: int = 0
    skipped: int = 0
    retrying: int = 0
    """The last attempt failed and a retry is scheduled."""
    endpoints: tuple[UUID, ...] = ()
    """Endpoints of deliveries that were not delivered; ENDPOINTS_LISTED at most."""

    @property
    def not_delivered(self) -> int:
        return self.failed + self.skipped + self.retrying

    @property
    def all_counted(self) -> bool:
        return self.total < DELIVERIES_COUNTED


@dataclass(frozen=True, slots=True)
class Entry:
    id: UUID
    """The event's."""
    created_at: datetime
    pos: int
    type: str
    summary: str
    subject: Subject | None
    customer_id: UUID | None
    amount: int | None
    currency: str | None
    links: str
    """JSON object: the role in the event to the id."""
    deliveries: DeliverySummary = field(default_factory=DeliverySummary)


@dataclass(frozen=True, slots=True)
class FeedPage:
    page: Page[Entry]
    as_of: datetime
    """Every event committed before this time has its entry."""


class Feed:
    """Reads the feed of one tenant in one mode. `data` logs in as the mode's role."""

    def __init__(self, data: Executor, tenant_id: UUID) -> None:
        self._data = data
        self._tenant_id = tenant_id

    async def read(self, feed_filter: FeedFilter, after: After, limit: int) -> FeedPage:
        """Newest first."""
        as_of = await projections.as_of(
            self._data, ACTIVITY
        )  # first: entries added meanwhile do no harm, missing ones would
        name, of = _statement(feed_filter)
        window = (feed_filter.since, feed_filter.until, after.created_at, after.id, limit + 1)
        rows = await self._data.fetch(_SQL[name], self._tenant_id, *window, *of)
        deliveries = await self._delivery_summaries(rows[:limit])
        return FeedPage(
            page([_entry(row, deliveries.get(row["id"], DeliverySummary())) for row in rows], limit), as_of
        )

    async def _delivery_summaries(self, rows: Sequence[Record]) -> dict[UUID, DeliverySummary]:
        events, moments = [row["id"] for row in rows], [row["created_at"] for row in rows]
        found = await self._data.fetch(
            _SQL["deliveries_of"], self._tenant_id, events, moments, DELIVERIES_COUNTED, ENDPOINTS_LISTED
        )
        return {event_id: _delivery_summary(*of) for event_id, *of in found}


def _statement(feed_filter: FeedFilter) -> tuple[str, Sequence[Any]]:
    """Returns the statement whose index finds the fewest entries, and its extra arguments."""
    types = None if feed_filter.types is None else list(feed_filter.types)
    if feed_filter.subject is not None:
        kind, id_ = feed_filter.subject
        narrowed = (types, feed_filter.customer_id, id_)
        if (by := {SUBSCRIPTION: "by_subscription", INVOICE: "by_invoice"}.get(kind)) is not None:
            return by, narrowed
        return "by_subject", (*narrowed, kind)
    if feed_filter.customer_id is not None:
        return "by_customer", (types, feed_filter.customer_id)
    if types is not None:
        return "by_type", (types,)
    return "list", ()


def _delivery_summary(
    deliveries: int, failed: int, skipped: int, retrying: int, endpoints: Sequence[UUID]
) -> DeliverySummary:
    return DeliverySummary(deliveries, failed, skipped, retrying, tuple(endpoints))


def _entry(row: Record, deliveries: DeliverySummary) -> Entry:
    id_, created_at, pos, type_, summary, kind, subject, customer, amount, currency, links = row
    return Entry(
        id_,
        created_at,
        pos,
        type_,
        summary,
        Subject(kind, subject) if kind else None,
        customer,
        amount,
        currency,
        links,
        deliveries,
    )
