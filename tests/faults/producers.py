"""Producers, each with its own connection, and the known outcome of their events.

record… ──► COMMIT ── answered ──► committed        must arrive at every endpoint
   │           └── connection lost ──► doubtful     must arrive at every endpoint or at none
   ├──► ROLLBACK ─────────────► rolled back         must arrive nowhere
   └──► connection lost ──────►    (the server never received COMMIT)
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import asyncpg

from schema.ids import EVENT, format_id
from schema.modes import Mode

EVENT_TYPE = "invoice_created"
_PADDING = "x" * 600  # makes a webhook of 0.8 kB
_RECORD = f"""
SELECT record_event($1::uuid, '{EVENT_TYPE}', jsonb_build_object('n', n, 'padding', '{_PADDING}')) AS id
  FROM generate_series(1, $2) AS n
"""
_LARGEST = 20  # events in one transaction
_ROLLED_BACK, _SLOW = 0.1, 0.05  # shares of transactions
_LONGEST_S = 0.3

Connect = Callable[[Mode], Awaitable[asyncpg.Connection]]


@dataclass(eq=False)
class Stream:
    """A tenant's events in one mode, and its endpoints."""

    mode: Mode
    tenant: UUID
    paths: dict[str, UUID]
    """Its endpoints. Each subscribes to every event."""
    committed: set[UUID] = field(default_factory=set)
    doubtful: set[UUID] = field(default_factory=set)
    rolled_back: set[UUID] = field(default_factory=set)

    def expected(self) -> set[tuple[str, str]]:
        return {(path, format_id(EVENT, event)) for event in self.committed for path in self.paths}


@dataclass
class Producer:
    stream: Stream
    connect: Connect
    chance: Random
    may_go_on: Callable[[], Awaitable[None]]
    """Returns when the receiver has caught up, so that faults happen during delivery."""

    async def commit(self, count: int) -> None:
        """Records events until `count` more are known to be committed."""
        connection: asyncpg.Connection | None = None
        left = count
        try:
            while left > 0:
                await self.may_go_on()
                try:
                    if connection is None or connection.is_closed():
                        connection = await self.connect(self.stream.mode)
                    left -= await self._transaction(connection, min(left, self.chance.randint(1, _LARGEST)))
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                    await asyncio.sleep(0.05)  # the database is unavailable; try later
                    if connection is not None:
                        connection.terminate()
        finally:
            if connection is not None:
                connection.terminate()

    async def _transaction(self, connection: asyncpg.Connection, count: int) -> int:
        """Returns how many events were certainly committed."""
        rolls_back, slow = self.chance.random() < _ROLLED_BACK, self.chance.random() < _SLOW
        await connection.execute("BEGIN")
        events = {row["id"] for row in await connection.fetch(_RECORD, self.stream.tenant, count)}
        self.stream.rolled_back |= events
        if slow:
            await asyncio.sleep(self.chance.random() * _LONGEST_S)
        if rolls_back:
            await connection.execute("ROLLBACK")
            return 0
        self.stream.rolled_back -= events
        self.stream.doubtful |= events
        await connection.execute("COMMIT")
        self.stream.doubtful -= events
        self.stream.committed |= events
        return count
