"""Pages follow each other without a gap and without a repeat, and a cursor is nobody's to make up."""

import base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.connections.database import Database
from schema.core import tenants
from schema.errors import InvalidInput
from schema.event_log import events
from schema.modes import Mode
from schema.pages import MOST, After, check_limit, page
from tests.support.events import record


@dataclass(frozen=True)
class Row:
    created_at: datetime
    id: UUID


MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.builds(Row, MOMENTS, st.uuids()))
def test_a_cursor_is_exact_to_the_microsecond(row: Row) -> None:
    cursor = page([row, row], limit=1).next_cursor
    assert After.read(cursor) == After(row.created_at, row.id)


@given(st.integers(0, 12), st.integers(1, 10))
def test_the_extra_row_shows_that_there_is_more(found: int, limit: int) -> None:
    rows = [Row(datetime.now(UTC), UUID(int=n)) for n in range(min(found, limit + 1))]
    shown = page(rows, limit)
    assert shown.items == rows[:limit]
    assert shown.has_more == (found > limit)


def test_without_a_cursor_a_list_starts_at_the_top() -> None:
    assert After.read(None) == After(None, None)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "=",
        "not base64 at all",
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        encoded("2026-06-28T09:00:00+00:00"),
        encoded("2026-06-28T09:00:00+00:00 not-a-uuid"),
        encoded(f"yesterday {UUID(int=1)}"),
        encoded(f"2026-06-28T09:00:00 {UUID(int=1)}"),
    ],
)
def test_what_no_list_returned_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="use a cursor that a list returned"):
        After.read(cursor)


@given(st.text())
def test_no_text_does_worse_than_being_refused(cursor: str) -> None:
    with suppress(InvalidInput):
        After.read(cursor)


@pytest.mark.parametrize("limit", [0, -1, MOST + 1])
def test_a_limit_out_of_bounds_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 100"):
        check_limit(limit)
    assert check_limit(MOST) == MOST


async def all_pages(read: Callable[[After], object], limit: int) -> list[UUID]:
    found: list[UUID] = []
    after = After()
    while True:
        shown = await read(after)
        assert len(shown.items) <= limit
        found += [item.id for item in shown.items]
        if not shown.has_more:
            return found
        after = After.read(shown.next_cursor)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_rows_of_one_moment_are_each_listed_once(
    database: Database, owner: asyncpg.Connection, tenant: UUID, limit: int
) -> None:
    ids = await owner.fetch(
        "INSERT INTO events (tenant_id, type, data, created_at)"
        " SELECT $1, 'webhook_test', '{}', date_trunc('day', now()) + make_interval(secs => n / 3)"
        "   FROM generate_series(0, 6) AS n RETURNING id, created_at",
        tenant,
    )
    newest_first = [row["id"] for row in sorted(ids, key=lambda row: (row["created_at"], row["id"]))][::-1]
    data = database.data(Mode.TEST)
    assert (
        await all_pages(lambda after: events.list_events(data, tenant, None, after, limit), limit)
        == newest_first
    )


async def test_what_is_recorded_meanwhile_repeats_nothing(database: Database, tenant: UUID) -> None:
    data = database.data(Mode.TEST)
    older = [await record(data, tenant) for _ in range(4)]
    first = await events.list_events(data, tenant, None, After(), 2)
    await record(data, tenant)
    rest = await events.list_events(data, tenant, None, After.read(first.next_cursor), 10)
    assert [event.id for event in (*first.items, *rest.items)] == older[::-1]


async def test_a_list_shows_one_tenant_and_one_type(
    database: Database, new_tenant: Callable[[], object]
) -> None:
    data, one, other = database.data(Mode.TEST), await new_tenant(), await new_tenant()
    wanted = await record(data, one, "invoice_created")
    await record(data, one, "subscription_created")
    await record(data, other, "invoice_created")
    shown = await events.list_events(data, one, "invoice_created", After(), 10)
    assert [event.id for event in shown.items] == [wanted]


async def test_tenants_are_listed_newest_first(database: Database, new_tenant: Callable[[], object]) -> None:
    made = [await new_tenant() for _ in range(3)]
    assert await all_pages(lambda after: tenants.list_tenants(database.core, after, 2), 2) == made[::-1]
