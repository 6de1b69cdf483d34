"""Random interleavings of transactions on real connections leave a log that is dense and complete."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from schema.event_log import log
from tests.support.events import record, sequence_all
from tests.support.servers.connections import Connect

CLIENTS = 4


class Step(NamedTuple):
    client: int
    action: str
    limit: int


ALONE = ("begin", "begin", "record", "sequence", "sequence", "read")
IN_TRANSACTION = (
    *("record", "record", "record", "draw_xid", "savepoint", "roll_back_to", "sequence"),
    *("commit", "commit", "roll_back"),
)


@st.composite
def schedules(draw: st.DrawFn) -> list[Step]:
    """Each step is possible in its client's state; only the savepoint to roll back to may be missing."""
    in_transaction = [False] * CLIENTS
    steps = []
    for _ in range(draw(st.integers(1, 60))):
        client = draw(st.integers(0, CLIENTS - 1))
        action = draw(st.sampled_from(IN_TRANSACTION if in_transaction[client] else ALONE))
        if action in {"begin", "commit", "roll_back"}:
            in_transaction[client] = action == "begin"
        steps.append(Step(client, action, draw(st.integers(1, 3)) if action == "sequence" else 0))
    return steps


@dataclass
class Transaction:
    begun: int
    events: list[UUID] = field(default_factory=list)
    savepoints: list[int] = field(default_factory=list)
    """How many events there were at each."""
    ended: int = 0


class World:
    """The clients, the events that they committed, and a reader that follows the log throughout."""

    def __init__(
        self, clients: Sequence[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID
    ) -> None:
        self._clients = clients
        self._reader = reader
        self._tenant = tenant
        self._clock = itertools.count()
        self._open: dict[int, Transaction] = {}
        self._cursor = 0
        self.committed: list[Transaction] = []
        self.received: list[UUID] = []

    async def start_at_the_end(self) -> None:
        entries = (await log.read_after(self._reader, 0, 1_000_000)).events
        self._cursor = entries[-1].pos if entries else 0

    async def take(self, step: Step) -> None:
        connection, transaction = self._clients[step.client], self._open.get(step.client)
        match step.action:
            case "read":
                await self.read()
            case "sequence":
                await self._sequence(connection, step.limit, transaction)
            case "record":
                await self._record(connection, transaction)
            case "begin":
                await connection.execute("BEGIN")
                self._open[step.client] = Transaction(next(self._clock))
            case "draw_xid":
                await connection.execute("SELECT pg_current_xact_id()")
            case "savepoint" if transaction:
                await connection.execute(f"SAVEPOINT s{len(transaction.savepoints)}")
                transaction.savepoints.append(len(transaction.events))
            case "roll_back_to" if transaction and transaction.savepoints:
                del transaction.events[transaction.savepoints.pop() :]
                await connection.execute(f"ROLLBACK TO s{len(transaction.savepoints)}")
            case "commit" | "roll_back" if transaction:
                await self._end(step.client, keep=step.action == "commit")

    async def read(self) -> None:
        for entry in (await log.read_after(self._reader, self._cursor, 1_000_000)).events:
            assert entry.pos == self._cursor + 1, "a position is missing, or came after a later one"
            self._cursor = entry.pos
            self.received.append(entry.id)

    async def settle(self) -> None:
        for client in list(self._open):
            await self._end(client, keep=True)
        await sequence_all(self._reader, limit=2)
        await self.read()

    async def _record(self, connection: asyncpg.Connection, transaction: Transaction | None) -> None:
        if transaction:
            transaction.events.append(await record(connection, self._tenant))
        else:
            alone = Transaction(next(self._clock), [await record(connection, self._tenant)])
            self._note_committed(alone)

    async def _sequence(
        self, connection: asyncpg.Connection, limit: int, transaction: Transaction | None
    ) -> None:
        count = await log.sequence(connection, limit)
        event(f"sequenced: {'turned away' if count is None else 'cut' if count >= limit else 'all'}")
        if not transaction and count is not None and count < limit:
            await self.read()
            assert set(self.received) >= self.all_committed(), "something committed is held back"

    async def _end(self, client: int, *, keep: bool) -> None:
        transaction = self._open.pop(client)
        await self._clients[client].execute("COMMIT" if keep else "ROLLBACK")
        if keep:
            self._note_committed(transaction)

    def _note_committed(self, transaction: Transaction) -> None:
        transaction.ended = next(self._clock)
        self.committed.append(transaction)

    def all_committed(self) -> set[UUID]:
        return {id_ for transaction in self.committed for id_ in transaction.events}


@asynccontextmanager
async def world(
    clients: Sequence[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID
) -> AsyncIterator[World]:
    """Examples share a database: each starts at the log's end, and leaves no transaction open."""
    try:
        world = World(clients, reader, tenant)
        await world.start_at_the_end()
        yield world
    finally:
        for client in clients:
            if client.is_in_transaction():
                await client.execute("ROLLBACK")


def check_order(log_order: Sequence[UUID], committed: Sequence[Transaction]) -> None:
    """Within a transaction: as recorded. A transaction begun after another's commit comes after all of it."""
    place = {id_: number for number, id_ in enumerate(log_order)}
    spans = [(t, [place[id_] for id_ in t.events]) for t in committed if t.events]
    for transaction, places in spans:
        assert places == sorted(places)
        for later, later_places in spans:
            if transaction.ended < later.begun:
                assert max(places) < min(later_places)


@pytest.fixture
async def clients(connect: Connect) -> list[asyncpg.Connection]:
    clients = [await connect() for _ in range(CLIENTS)]
    for client in clients:
        await client.execute("SET lock_timeout = '1s'")  # no step ever waits for another client's transaction
    return clients


@pytest.fixture
async def reader(connect: Connect) -> asyncpg.Connection:
    return await connect()


@given(schedules())
@settings(
    max_examples=3 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_interleaving_leaves_a_dense_complete_causal_log(
    clients: list[asyncpg.Connection], reader: asyncpg.Connection, tenant: UUID, schedule: list[Step]
) -> None:
    async with world(clients, reader, tenant) as it:
        for step in schedule:
            await it.take(step)
        await it.settle()

        assert len(it.received) == len(set(it.received))
        assert set(it.received) == it.all_committed()
        check_order(it.received, it.committed)
