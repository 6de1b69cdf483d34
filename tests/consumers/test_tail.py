"""Many listeners cost one reader. Each gets every event once, and none delays another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from consumers import tail as tails
from consumers.tail import Tail
from consumers.tail_listener import EventsDropped
from schema.connections.database import Database, Pool
from schema.errors import InvalidInput
from schema.event_log.log import LoggedEvent
from schema.modes import Mode
from tests.support.events import record, sequence_all, sequenced
from tests.support.lifecycle_stress import stress_lifecycle
from tests.support.servers.connections import Connect
from tests.support.servers.tcp_proxy import proxying
from tests.support.tail_listeners import RecordingListener, listening, running

NewTenant = Callable[[], Awaitable[UUID]]


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
async def tail(data: Pool) -> AsyncIterator[Tail]:
    """A running tail."""
    tail = Tail(data)
    async with running(tail):
        yield tail


class CountingPool:
    """A pool that counts its queries, and delays them while `may_read` is clear."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.queries = 0
        self.reading = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def fetch(self, *arguments: Any) -> Any:
        self.queries += 1
        self.reading.set()
        await self.may_read.wait()
        return await self._pool.fetch(*arguments)

    async def fetchrow(self, *arguments: Any) -> Any:
        self.queries += 1
        return await self._pool.fetchrow(*arguments)


async def until_in_window(tail: Tail, pos: int) -> None:
    async with asyncio.timeout(15):
        while tail._recent.end is None or tail._recent.end < pos:
            tail.hint()
            await asyncio.sleep(0.002)


async def test_a_listener_receives_past_events_and_then_new_ones(
    tail: Tail, data: Pool, tenant: UUID
) -> None:
    past = [event.id for event in await sequenced(data, tenant, 250)]
    async with listening(tail, tenant, after=0) as listener:
        await listener.received.count(250)
        new = [event.id for event in await sequenced(data, tenant, 3)]
        await listener.received.count(253)
        assert listener.events == past + new


async def test_without_a_position_it_receives_new_events_only(tail: Tail, data: Pool, tenant: UUID) -> None:
    await sequenced(data, tenant, 5)
    async with listening(tail, tenant) as listener:
        new = [event.id for event in await sequenced(data, tenant, 2)]
        await listener.received.count(2)
        assert listener.events == new


async def test_it_receives_its_tenants_events_of_the_wanted_types(
    tail: Tail, data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    other = await new_tenant()
    async with (
        listening(tail, tenant, ["webhook_test"], after=0) as few,
        listening(tail, tenant, after=0) as all_,
    ):
        wanted = []
        for type_ in ("invoice_created", "webhook_test", "subscription_paused", "webhook_test"):
            await record(data, other, type_)
            wanted.append(await record(data, tenant, type_))
            await sequence_all(data)
        await all_.received.count(4)
        await few.received.count(2)
        assert all_.events == wanted
        assert few.events == [wanted[1], wanted[3]]


async def test_a_hint_causes_a_poll_before_the_interval_ends(data: Pool, tenant: UUID) -> None:
    tail = Tail(data)
    tail._poll_timer = tails.PollTimer(first=3600, most=3600)
    async with running(tail), listening(tail, tenant, after=0) as listener:
        await until_in_window(tail, 0)
        await sequenced(data, tenant, 1)
        await until_in_window(tail, 1)
        await listener.received.count(1)


async def test_without_listeners_the_tail_does_not_query(data: Pool, tenant: UUID) -> None:
    counted = CountingPool(data)
    tail = Tail(counted)  # type: ignore[arg-type]  # as much of a pool as it needs
    async with running(tail):
        await asyncio.sleep(0)
        tail.hint()
        async with listening(tail, tenant, after=0) as listener:
            await sequenced(data, tenant, 1)
            await listener.received.count(1)
        await asyncio.sleep(0)
        before = counted.queries
        assert before > 0
        tail.hint()
        await data.fetchval("SELECT pg_sleep(0.3)")  # longer than its longest wait between polls
        assert counted.queries - before <= 2, "one poll may have been under way"
        assert len(tail._recent) == 0
        assert tail._recent.characters == 0


async def test_500_listeners_cost_one_stream_of_queries(
    data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    """Only hints cause polls here, so that the count does not depend on how fast the machine is."""
    others = [await new_tenant() for _ in range(9)]
    counted = CountingPool(data)
    tail = Tail(counted)  # type: ignore[arg-type]  # as much of a pool as it needs
    tail._poll_timer = tails.PollTimer(first=3600, most=3600)

    async def record_and_hint(count: int) -> list[int]:
        events = await sequenced(data, tenant, count)
        tail.hint()
        return [event.pos for event in events]

    async with running(tail), AsyncExitStack() as stack:
        first = await stack.enter_async_context(listening(tail, tenant, after=0))
        await until_in_window(tail, 0)
        (end,) = await record_and_hint(1)
        await first.received.count(1)
        before = counted.queries
        listeners = [
            await stack.enter_async_context(listening(tail, each, after=end))
            for each in [tenant] * 49 + others * 50
        ]
        for batch in range(1, 11):
            new = await record_and_hint(20)
            for listener in listeners[:49]:
                await listener.received.count(20 * batch)
                assert listener.positions[-20:] == new
            assert counted.queries - before <= 3 * batch + 2, (
                "a poll that finds them takes two queries, and one that finds nothing more takes one; "
                "the first batch may come while such a poll is under way"
            )
        assert len(listeners) == 499
        assert all(len(listener.received) == 0 for listener in listeners[49:])


async def test_an_event_wakes_only_its_tenants_listeners(
    tail: Tail, data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    other = await new_tenant()
    async with listening(tail, tenant, after=0) as mine, listening(tail, other, after=0) as theirs:
        await until_in_window(tail, 0)
        await sequenced(data, tenant, 1)
        await mine.received.count(1)
        undisturbed = tail._recent.channels[other].news
        await sequenced(data, tenant, 10)
        await mine.received.count(11)
        assert tail._recent.channels[other].news is undisturbed
        assert len(theirs.received) == 0


async def test_a_quiet_listeners_position_moves_with_the_log(
    tail: Tail, data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    """Otherwise a listener that resumes there would search a long history again."""
    other = await new_tenant()
    async with listening(tail, tenant, after=0) as quiet:
        await until_in_window(tail, 0)  # else its window may begin at 5, and its position depend on a page
        await sequenced(data, other, 5)
        await until_in_window(tail, 5)
        assert quiet.listener is not None
        assert quiet.listener.position == 5
        assert len(quiet.received) == 0


async def test_a_listener_that_joins_during_a_read_misses_nothing(
    data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    other = await new_tenant()
    counted = CountingPool(data)
    tail = Tail(counted)  # type: ignore[arg-type]  # as much of a pool as it needs
    async with tail.listen(tenant, after=0):
        await tail._poll()
        event, _ = await sequenced(data, other, 1), await sequenced(data, tenant, 1)
        counted.may_read.clear()
        poll = asyncio.create_task(tail._poll())
        await counted.reading.wait()
        async with tail.listen(other, after=0) as events:
            received = asyncio.create_task(anext(events))
            await asyncio.sleep(0)  # the listener sees that it is at the window's end
            counted.may_read.set()
            await poll
            async with asyncio.timeout(15):
                assert await received == event[0]


async def test_a_slow_listener_reads_the_database_and_delays_none(data: Pool, tenant: UUID) -> None:
    tail = Tail(data, max_events=5)
    async with (
        running(tail),
        listening(tail, tenant, after=0) as slow,
        listening(tail, tenant, after=0) as fast,
    ):
        await until_in_window(tail, 0)
        slow.may_read.clear()
        for number in range(1, 41):
            await sequenced(data, tenant, 1)
            await fast.received.count(number)
            assert len(tail._recent) <= 5
        assert len(slow.received) == 1
        slow.may_read.set()
        await slow.received.count(40)
        assert slow.events == fast.events
        await sequenced(data, tenant, 1)
        await slow.received.count(41)
        assert slow.positions == list(range(1, 42))


async def test_memory_is_bounded_by_size_too(data: Pool, tenant: UUID) -> None:
    tail = Tail(data, max_characters=100)
    async with running(tail), listening(tail, tenant, after=0) as listener:
        await until_in_window(tail, 0)
        for number in range(1, 31):
            await sequenced(data, tenant, 1)
            await listener.received.count(number)
            assert tail._recent.characters <= 100
        assert listener.positions == list(range(1, 31))


async def test_a_cancelled_wait_loses_nothing(tail: Tail, data: Pool, tenant: UUID) -> None:
    """As by a timeout between two heartbeats."""
    async with tail.listen(tenant, after=0) as events:
        for number in range(1, 6):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.002):
                        await anext(events)
            await sequenced(data, tenant, 1)
            async with asyncio.timeout(15):
                received = await anext(events)
            assert isinstance(received, LoggedEvent)
            assert received.pos == number


async def test_an_event_that_commits_late_is_received_late(
    tail: Tail, connect: Connect, data: Pool, tenant: UUID
) -> None:
    late = await connect()
    async with listening(tail, tenant, after=0) as listener:
        transaction = late.transaction()
        await transaction.start()
        slow = await record(late, tenant)
        fast = await record(data, tenant)
        await sequence_all(data)
        await listener.received.count(1)
        await transaction.commit()
        await sequence_all(data)
        await listener.received.count(2)
        assert listener.events == [fast, slow]


@pytest.mark.parametrize("after", [-1, 4])
async def test_a_position_of_another_log_is_refused(tail: Tail, data: Pool, tenant: UUID, after: int) -> None:
    await sequenced(data, tenant, 3)
    with pytest.raises(InvalidInput, match="is not in it"):
        await RecordingListener().listen(tail, tenant, after=after)


async def test_dropped_events_are_reported_once_in_their_place(
    tail: Tail, data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    await sequenced(data, tenant, 250)
    await owner.execute(
        "INSERT INTO retired_months (month, last_pos, events, tables) VALUES ('2020-01-01', 200, 200, '{}')"
    )
    async with listening(tail, tenant, after=10) as listener, listening(tail, tenant, after=200) as later:
        await listener.received.count(241)
        assert listener.received[0] == EventsDropped(200)
        assert listener.positions == list(range(11, 251))
        await later.received.count(50)
        assert later.positions == list(range(201, 251))
    assert not any(isinstance(received, EventsDropped) for received in later.received)


async def test_events_dropped_between_two_polls_are_reported(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """Events that are written and dropped before the tail reads them."""
    tail = Tail(data)
    tail._poll_timer = tails.PollTimer(first=3600, most=3600)
    async with running(tail), listening(tail, tenant, after=0) as listener:
        await until_in_window(tail, 0)
        await sequenced(data, tenant, 3)
        await owner.execute(
            "INSERT INTO retired_months (month, last_pos, events, tables) VALUES ('2020-01-01', 2, 2, '{}')"
        )
        tail.hint()
        await listener.received.count(4)
        assert listener.received[0] == EventsDropped(2)


async def test_old_and_new_listeners_survive_an_outage(
    db_url: str, key: bytes, data: Pool, tenant: UUID, new_tenant: NewTenant
) -> None:
    other = await new_tenant()
    async with proxying(db_url) as proxy, Database.open(proxy.url(db_url), key) as far:
        tail = Tail(far.data(Mode.TEST))
        async with running(tail), listening(tail, tenant, after=0) as old:
            await sequenced(data, tenant, 1)
            await old.received.count(1)
            proxy.shut_down()
            await sequenced(data, tenant, 2)
            await sequenced(data, other, 2)
            async with listening(tail, other, after=0) as new:
                async with asyncio.timeout(15):
                    await proxy.rejected.wait()
                assert len(new.received) == 0
                proxy.restore()
                await new.received.count(2)
                await old.received.count(3)
                assert (old.positions, new.positions) == ([1, 2, 3], [4, 5])


async def test_when_it_stops_all_listeners_end(data: Pool, tenant: UUID, new_tenant: NewTenant) -> None:
    """Also those that wait, and those that come after the end."""
    tail = Tail(data)
    stop = asyncio.Event()
    run = asyncio.create_task(tail.run(stop))
    tasks = [
        asyncio.create_task(RecordingListener().listen(tail, each, after=after))
        for each in (tenant, await new_tenant())
        for after in (0, None)
    ]
    await until_in_window(tail, 0)
    await sequenced(data, tenant, 1)
    stop.set()
    async with asyncio.timeout(15):
        await run
        await asyncio.gather(*tasks)
        await RecordingListener().listen(tail, tenant, after=0)
    assert not tail._recent.channels


async def test_stopping_ends_listeners_in_an_outage(db_url: str, key: bytes, tenant: UUID) -> None:
    async with proxying(db_url) as proxy, Database.open(proxy.url(db_url), key) as far:
        tail = Tail(far.data(Mode.TEST))
        stop = asyncio.Event()
        run = asyncio.create_task(tail.run(stop))
        proxy.shut_down()
        task = asyncio.create_task(RecordingListener().listen(tail, tenant, after=0))
        async with asyncio.timeout(15):
            await proxy.rejected.wait()
            stop.set()
            await run
            await task


async def test_a_tail_starts_and_stops_like_every_part(data: Pool, tenant: UUID) -> None:
    tail = Tail(data)
    await stress_lifecycle(tail)
    async with tail.listen(tenant, after=0):
        await stress_lifecycle(tail)
