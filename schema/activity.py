"""The activity feed: one line per event. Written by its consumer, read page by page. What the columns mean is told in
migrations/data/0016_activity.sql.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from asyncpg import Record

from schema import projections
from schema.database import Connection, Executor
from schema.ids import INVOICE, SUBSCRIPTION
from schema.pages import After, Page, page
from schema.queries import load

_SQL = load("activity")
ACTIVITY: Final = "activity"
DELIVERIES_SEEN: Final = 100
"""Of each event. One with more, to so many endpoints, is told of as far as these go."""
ENDPOINTS_NAMED: Final = 3


class NewLine(NamedTuple):
    """In the order of the statement's columns."""

    id: UUID
    tenant_id: UUID
    created_at: datetime
    pos: int
    type: str
    line: str
    subject_kind: str | None
    subject_id: UUID | None
    subscription_id: UUID | None
    invoice_id: UUID | None
    customer_id: UUID | None
    amount: int | None
    currency: str | None
    links: str
    """JSON."""


async def add(tx: Connection, generation: int, lines: Sequence[NewLine]) -> None:
    """One that is there already stays as it is."""
    await tx.execute(_SQL["add"], generation, *map(list, zip(*lines, strict=True)))


class Subject(NamedTuple):
    kind: str
    """The prefix of its id."""
    id: UUID


@dataclass(frozen=True, slots=True)
class Sought:
    """What a feed is narrowed to, all of it at once; nothing by default."""

    types: Sequence[str] | None = None
    subject: Subject | None = None
    """All that concerns a subscription or an invoice; of others, what is about them in the first place."""
    customer_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    """The bounds are [since, until)."""


@dataclass(frozen=True, slots=True)
class Fares:
    """How an event's deliveries fare at the moment of reading."""

    deliveries: int = 0
    failed: int = 0
    skipped: int = 0
    retrying: int = 0
    """The last attempt failed, and the next is to come."""
    endpoints: tuple[UUID, ...] = ()
    """Some of those to which something did not arrive: ENDPOINTS_NAMED at most."""

    @property
    def troubled(self) -> int:
        return self.failed + self.skipped + self.retrying

    @property
    def all_seen(self) -> bool:
        return self.deliveries < DELIVERIES_SEEN


@dataclass(frozen=True, slots=True)
class Line:
    id: UUID
    """The event's."""
    created_at: datetime
    pos: int
    type: str
    line: str
    subject: Subject | None
    customer_id: UUID | None
    amount: int | None
    currency: str | None
    links: str
    """JSON: ids by what they are to the event."""
    fares: Fares = field(default_factory=Fares)


@dataclass(frozen=True, slots=True)
class FeedPage:
    page: Page[Line]
    as_of: datetime
    """Every event committed before has its line."""


class Feed:
    """One tenant's, in one mode: `data` is a connection or pool of the mode's own role."""

    def __init__(self, data: Executor, tenant_id: UUID) -> None:
        self._data = data
        self._tenant_id = tenant_id

    async def read(self, sought: Sought, after: After, limit: int) -> FeedPage:
        """Newest first."""
        as_of = await projections.as_of(
            self._data, ACTIVITY
        )  # first: the lines may be more than that, never fewer
        name, of = _statement(sought)
        window = (sought.since, sought.until, after.created_at, after.id, limit + 1)
        rows = await self._data.fetch(_SQL[name], self._tenant_id, *window, *of)
        fares = await self._fares(rows[:limit])
        return FeedPage(page([_line(row, fares.get(row["id"], Fares())) for row in rows], limit), as_of)

    async def _fares(self, rows: Sequence[Record]) -> dict[UUID, Fares]:
        events, moments = [row["id"] for row in rows], [row["created_at"] for row in rows]
        found = await self._data.fetch(
            _SQL["deliveries_of"], self._tenant_id, events, moments, DELIVERIES_SEEN, ENDPOINTS_NAMED
        )
        return {event_id: _fare(*of) for event_id, *of in found}


def _statement(sought: Sought) -> tuple[str, Sequence[Any]]:
    """The list whose index leads to the fewest lines, and its own arguments."""
    types = None if sought.types is None else list(sought.types)
    if sought.subject is not None:
        kind, id_ = sought.subject
        narrowed = (types, sought.customer_id, id_)
        if (by := {SUBSCRIPTION: "by_subscription", INVOICE: "by_invoice"}.get(kind)) is not None:
            return by, narrowed
        return "by_subject", (*narrowed, kind)
    if sought.customer_id is not None:
        return "by_customer", (types, sought.customer_id)
    if types is not None:
        return "by_type", (types,)
    return "list", ()


def _fare(deliveries: int, failed: int, skipped: int, retrying: int, endpoints: Sequence[UUID]) -> Fares:
    return Fares(deliveries, failed, skipped, retrying, tuple(endpoints))


def _line(row: Record, fares: Fares) -> Line:
    id_, created_at, pos, type_, line, kind, subject, customer, amount, currency, links = row
    return Line(
        id_,
        created_at,
        pos,
        type_,
        line,
        Subject(kind, subject) if kind else None,
        customer,
        amount,
        currency,
        links,
        fares,
    )
