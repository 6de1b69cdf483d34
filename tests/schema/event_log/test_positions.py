"""Pages of a tenant's events after a position: complete, in order, only the tenant's, and bounded."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database, Pool
from schema.errors import InvalidInput
from schema.event_log import positions
from schema.event_log.positions import events_after, events_of_tenants, log_end
from schema.modes import Mode
from tests.support.events import record, record_many, sequence_all
from tests.support.servers.connections import Connect

NewTenant = Callable[[], Awaitable[UUID]]


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
async def other(new_tenant: NewTenant) -> UUID:
    return await new_tenant()


async def interleaved(data: Pool, tenant: UUID, other: UUID, *types: str) -> list[UUID]:
    """Records one event of each of `types` for the tenant, each followed by one of the other tenant's."""
    ids = []
    for type_ in types:
        ids.append(await record(data, tenant, type_))
        await record(data, other, type_)
    await sequence_all(data)
    return ids


async def everything(
    data: Pool, tenant: UUID, types: tuple[str, ...] = (), **bounds: int
) -> tuple[list[UUID], int]:
    """Reads all pages from the beginning; returns the events and how many pages there were."""
    found: list[UUID] = []
    pos, pages = 0, 0
    while True:
        page = await events_after(data, tenant, pos, types, **bounds)
        pages += 1
        assert [event.pos for event in page.events] == sorted({event.pos for event in page.events})
        assert all(pos < event.pos <= page.reached for event in page.events)
        assert all(event.tenant_id == tenant for event in page.events)
        found += [event.id for event in page.events]
        if page.at_end:
            return found, pages
        assert page.reached > pos, "it would never end"
        pos = page.reached


async def test_an_empty_log_is_read_to_its_end(data: Pool, tenant: UUID) -> None:
    page = await events_after(data, tenant, 0)
    assert (page.events, page.reached, page.at_end, page.dropped_up_to) == ([], 0, True, None)
    assert await log_end(data) == positions.LogEnd(0, 0)


async def test_a_page_has_only_the_tenants_events_in_order(data: Pool, tenant: UUID, other: UUID) -> None:
    mine = await interleaved(data, tenant, other, *["invoice_created"] * 5)
    page = await events_after(data, tenant, 0)
    assert [event.id for event in page.events] == mine
    assert [event.pos for event in page.events] == [1, 3, 5, 7, 9]
    assert (page.reached, page.at_end) == (10, True)
    assert [event.pos for event in (await events_after(data, tenant, 5)).events] == [7, 9]
    assert (await events_after(data, tenant, 10)).events == []


async def test_several_types_can_be_requested_by_name(data: Pool, tenant: UUID, other: UUID) -> None:
    created, paused, test, again = await interleaved(
        data, tenant, other, "invoice_created", "subscription_paused", "webhook_test", "invoice_created"
    )
    for types, wanted in (
        (("invoice_created",), [created, again]),
        (("webhook_test", "subscription_paused"), [paused, test]),
        (("subscription_expired",), []),
        ((), [created, paused, test, again]),
    ):
        assert (await everything(data, tenant, types))[0] == wanted


@pytest.mark.parametrize("types", [(), ("invoice_created",)])
@pytest.mark.parametrize("bounds", [{"limit": 1}, {"limit": 3}, {"max_bytes": 1}, {"scan_limit": 1}])
async def test_pages_are_complete_together_whatever_limits_them(
    data: Pool, tenant: UUID, other: UUID, types: tuple[str, ...], bounds: dict[str, int]
) -> None:
    mine = await interleaved(data, tenant, other, *["invoice_created"] * 7)
    found, pages = await everything(data, tenant, types, **bounds)
    assert found == mine
    assert pages > 1 or (not types and "scan_limit" in bounds)


async def test_a_page_without_events_still_advances(data: Pool, tenant: UUID) -> None:
    """With a rare type, each page searches only its limit of positions, and reports how far it got."""
    await record_many(data, tenant, 10)
    rare = await record(data, tenant, "webhook_test")
    await sequence_all(data)
    first = await events_after(data, tenant, 0, ["webhook_test"], scan_limit=4)
    assert (first.events, first.reached, first.at_end) == ([], 4, False)
    assert await everything(data, tenant, ("webhook_test",), scan_limit=4) == ([rare], 3)


async def test_a_quiet_tenants_page_reaches_the_logs_end(data: Pool, tenant: UUID, other: UUID) -> None:
    await record_many(data, other, 20)
    await sequence_all(data)
    page = await events_after(data, tenant, 0, scan_limit=4)
    assert (page.events, page.reached, page.at_end) == ([], 20, True)


async def test_an_event_larger_than_the_bytes_comes_alone(data: Pool, tenant: UUID) -> None:
    await record_many(data, tenant, 2)
    await sequence_all(data)
    page = await events_after(data, tenant, 0, max_bytes=1)
    assert ([event.pos for event in page.events], page.reached, page.at_end) == ([1], 1, False)


async def test_an_event_that_commits_late_is_not_missed(connect: Connect, data: Pool, tenant: UUID) -> None:
    late = await connect()
    async with late.transaction():
        slow = await record(late, tenant)
        fast = await record(data, tenant)
        await sequence_all(data)
        page = await events_after(data, tenant, 0)
        assert [event.id for event in page.events] == [fast]
        assert page.at_end
    await sequence_all(data)
    after = await events_after(data, tenant, page.reached)
    assert [event.id for event in after.events] == [slow]


@pytest.mark.parametrize("pos", [-1, 4, 2**63 - 1])
async def test_a_position_outside_the_log_is_refused(data: Pool, tenant: UUID, pos: int) -> None:
    await record_many(data, tenant, 3)
    await sequence_all(data)
    with pytest.raises(InvalidInput, match=f"from position 0 to 3, and {pos} is not in it"):
        await events_after(data, tenant, pos)


@pytest.mark.parametrize("limit", [0, positions.MAX_EVENTS + 1])
async def test_a_limit_above_the_maximum_is_refused(data: Pool, tenant: UUID, limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"ask for 1 to {positions.MAX_EVENTS}"):
        await events_after(data, tenant, 0, limit=limit)


async def test_a_page_from_before_dropped_events_reports_them(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    await record_many(data, tenant, 5)
    await sequence_all(data)
    await owner.execute(
        "INSERT INTO retired_months (month, last_pos, events, tables)"
        " VALUES ('2020-02-01', 3, 3, '{}'), ('2020-01-01', 2, 2, '{}')"
    )
    for pos in (0, 2):
        assert (await events_after(data, tenant, pos)).dropped_up_to == 3
    assert (await events_after(data, tenant, 3)).dropped_up_to is None
    assert (await log_end(data)).dropped_up_to == 3


async def test_each_mode_has_its_own_positions(database: Database, data: Pool, tenant: UUID) -> None:
    await record_many(data, tenant, 2)
    await sequence_all(data)
    live = await events_after(database.data(Mode.LIVE), tenant, 0)
    assert (live.events, live.reached) == ([], 0)


@pytest.mark.parametrize("bounds", [{}, {"scan_limit": 1}, {"max_bytes": 1}, {"scan_limit": 3}])
async def test_several_tenants_are_read_in_one_query(
    data: Pool, new_tenant: NewTenant, tenant: UUID, other: UUID, bounds: dict[str, int]
) -> None:
    stranger = await new_tenant()
    wanted = []
    for number in range(4):
        wanted += [await record(data, tenant, n=number), await record(data, other, n=number)]
        await record(data, stranger)
    await sequence_all(data)
    found: list[UUID] = []
    pos = 0
    while not (stretch := await events_of_tenants(data, pos, [tenant, other], **bounds)).at_end:
        assert stretch.reached > pos
        found += [event.id for event in stretch.events]
        pos = stretch.reached
    assert [*found, *(event.id for event in stretch.events)] == wanted
