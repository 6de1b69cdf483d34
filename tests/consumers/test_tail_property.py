"""For any schedule of commits, polls and listeners that join, pause and leave: each listener receives all its tenant's
events after its position, once and in the order of the log.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.tail import Tail
from schema.connections.database import Database, Pool
from schema.core import tenants
from schema.event_log import log
from schema.modes import Mode
from tests.support.events import record, sequence_all
from tests.support.servers.connections import Connect
from tests.support.tail_listeners import RecordingListener

TYPES = ("invoice_created", "webhook_test")
PRODUCERS = 3


class Step(NamedTuple):
    action: str
    number: int
    of: int


ACTIONS = (
    *("record", "record", "record", "begin", "commit", "commit", "roll_back"),
    *("sequence", "sequence", "poll", "poll", "join", "leave", "hold", "release", "turn"),
)
STEPS = st.builds(Step, st.sampled_from(ACTIONS), st.integers(0, 11), st.integers(0, 3))
SCHEDULES = st.integers(1, 120).flatmap(lambda count: st.lists(STEPS, min_size=count, max_size=count))


@dataclass
class Joined:
    listener: RecordingListener
    task: asyncio.Task[None]
    tenant: UUID
    types: tuple[str, ...]
    after: int


@dataclass
class World:
    tail: Tail
    data: Pool
    producers: list[asyncpg.Connection]
    tenants: list[UUID]
    listeners: list[Joined] = field(default_factory=list)
    done: list[Joined] = field(default_factory=list)
    polling: asyncio.Task[bool] | None = None

    async def take(self, step: Step) -> None:
        producer = self.producers[step.number % PRODUCERS]
        match step.action:
            case "record":
                await record(producer, self.tenants[step.of % 2], TYPES[step.number % 2])
            case "sequence":
                await log.sequence(self.data, step.of + 1)
            case "begin" if not producer.is_in_transaction():
                await producer.execute("BEGIN")
            case "commit" if producer.is_in_transaction():
                await producer.execute("COMMIT")
            case "roll_back" if producer.is_in_transaction():
                await producer.execute("ROLLBACK")
            case "poll":
                await self._poll()
            case "turn":
                await asyncio.sleep(0)
            case _:
                await self._listen(step)

    async def _poll(self) -> None:
        """Begins a poll, during which other steps run, or awaits the one under way."""
        if self.polling:
            await self.polling
            self.polling = None
        elif self.tail._recent.channels:
            self.polling = asyncio.create_task(self.tail._poll())

    async def _listen(self, step: Step) -> None:
        match step.action:
            case "join":
                await self._join(step)
            case "leave" if self.listeners:
                await self._leave(self.listeners.pop(step.number % len(self.listeners)))
            case "hold" if self.listeners:
                self.listeners[step.number % len(self.listeners)].listener.may_read.clear()
            case "release" if self.listeners:
                self.listeners[step.number % len(self.listeners)].listener.may_read.set()

    async def _join(self, step: Step) -> None:
        end = (await self.data.fetchval("SELECT last_pos FROM sequencer")) or 0
        edge = self.tail._recent.end  # where a listener changes from one source to the other
        after = edge if edge is not None and step.number % 2 else max(0, end - step.number)
        tenant, types = self.tenants[step.of % 2], TYPES[: step.of // 2]
        listener = RecordingListener()
        task = asyncio.create_task(listener.listen(self.tail, tenant, types, after))
        self.listeners.append(Joined(listener, task, tenant, types, after))

    async def _leave(self, joined: Joined) -> None:
        joined.task.cancel()
        await asyncio.wait([joined.task])
        self.done.append(joined)

    async def settle(self) -> None:
        for producer in self.producers:
            if producer.is_in_transaction():
                await producer.execute("COMMIT")
        await sequence_all(self.data)
        if self.polling:
            await self.polling
        for joined in self.listeners:
            joined.listener.may_read.set()
        entire = (await log.read_after(self.data, 0, 1_000_000)).events
        stop = asyncio.Event()
        run = asyncio.create_task(self.tail.run(stop))
        for joined in self.listeners:
            await joined.listener.received.count(len(self.due(joined, entire)))
        stop.set()
        async with asyncio.timeout(15):
            await run
            await asyncio.gather(*(joined.task for joined in self.listeners))
        for joined in self.listeners:
            assert joined.listener.positions == self.due(joined, entire)
        for joined in self.done:  # it left early
            received = joined.listener.positions
            assert received == self.due(joined, entire)[: len(received)]

    @staticmethod
    def due(joined: Joined, entire: list[log.LoggedEvent]) -> list[int]:
        return [
            event.pos
            for event in entire
            if event.pos > joined.after
            and event.tenant_id == joined.tenant
            and (not joined.types or event.type in joined.types)
        ]


@asynccontextmanager
async def world(
    database: Database, producers: list[asyncpg.Connection], merchants: list[UUID], window: int
) -> AsyncIterator[World]:
    """The examples share one database."""
    it = World(
        Tail(database.data(Mode.TEST), max_events=window), database.data(Mode.TEST), producers, merchants
    )
    try:
        yield it
    finally:
        for joined in it.listeners:
            joined.task.cancel()
        if it.listeners:
            await asyncio.wait([joined.task for joined in it.listeners])
        for producer in producers:
            if producer.is_in_transaction():
                await producer.execute("ROLLBACK")


@pytest.fixture
async def producers(connect: Connect) -> list[asyncpg.Connection]:
    return [await connect() for _ in range(PRODUCERS)]


@pytest.fixture
async def merchants(database: Database) -> list[UUID]:
    return [(await tenants.create(database.core, name))[0] for name in ("Lagos Gym", "Abuja Books")]


@given(SCHEDULES, st.sampled_from([1, 3, 1000]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_each_listener_receives_its_events_once_and_in_order(
    database: Database,
    producers: list[asyncpg.Connection],
    merchants: list[UUID],
    schedule: list[Step],
    window: int,
) -> None:
    async with world(database, producers, merchants, window) as it:
        for step in schedule:
            await it.take(step)
        await it.settle()
