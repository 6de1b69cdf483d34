"""A fault scenario: a database with tenants, producers, a receiver, and the final check.

The final check, after the producers have ended:

    every committed event   one delivery row per endpoint, delivered, attempts counted, no lease, verified at the receiver
    every rolled back one   nowhere
    every doubtful one      in the log and everywhere, or not in the log and nowhere
    repeats                 no more than were in flight at the faults
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import asyncpg

from schema.connections.database import Database
from schema.core import tenants
from schema.modes import Mode
from tests.faults.fault_receiver import FaultReceiver
from tests.faults.figures import Figures
from tests.faults.length import PATIENCE_S, SEED
from tests.faults.producers import EVENT_TYPE, Connect, Producer, Stream
from tests.support.engine import add_endpoint
from tests.support.servers.duro_process import eventually

_ENDPOINTS = 2  # of each tenant
_AHEAD = 500  # deliveries that producers may be ahead of the receiver

_UNSETTLED = """
SELECT (SELECT count(*) FROM {schema}.webhook_deliveries d WHERE d.event_type = $1) < $2
       OR EXISTS (SELECT FROM {schema}.webhook_deliveries d WHERE d.status = 'pending')
"""
_WRONG = """
SELECT d.id, d.status, d.attempts, d.lease, d.due_at, a.made, a.good
  FROM {schema}.webhook_deliveries d
  LEFT JOIN (SELECT delivery_id, count(*) FILTER (WHERE settled) AS made,
                    count(*) FILTER (WHERE settled AND outcome = 'ok') AS good
               FROM {schema}.webhook_attempts GROUP BY delivery_id) a ON a.delivery_id = d.id
 WHERE d.status <> 'delivered' OR d.lease IS NOT NULL OR d.due_at IS NOT NULL
    OR d.attempts < 1 OR d.attempts IS DISTINCT FROM a.made OR a.good IS DISTINCT FROM 1
"""
_ROWS = """
SELECT event_id, endpoint_id FROM {schema}.webhook_deliveries WHERE event_type = $1
"""
_GAPS = """
SELECT (SELECT count(*) FROM {schema}.events) AS events, count(*) AS logged, coalesce(max(pos), 0) AS last,
       (SELECT count(*) FROM {schema}.dead_events) AS dead
  FROM {schema}.event_log
"""


@dataclass
class Scenario:
    url: str = field(repr=False)
    """Logs in as the owner."""
    key: bytes = field(repr=False)
    owner: asyncpg.Pool
    receiver: FaultReceiver
    streams: Sequence[Stream]
    figures: Figures
    chance: Random

    # Producing

    def produce(self, deliveries: int, connect: Connect | None = None) -> "asyncio.Task[None]":
        """Records events for that many deliveries, with two producers per stream.

        Ends when all are committed.
        """
        producers = [
            Producer(stream, connect or self.connect, Random(self.chance.random()), self._caught_up)
            for stream in self.streams
            for _ in range(2)
        ]
        each = -(-deliveries // (len(producers) * _ENDPOINTS))

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                for producer in producers:
                    group.create_task(producer.commit(each))

        return asyncio.create_task(run())

    async def connect(self, mode: Mode) -> asyncpg.Connection:
        """Connects directly to the database, as a product would, with a short timeout."""
        settings = {"search_path": mode.schema}
        return await asyncpg.connect(self.url, server_settings=settings, timeout=5, command_timeout=30)

    async def _caught_up(self) -> None:
        await self.receiver.until(
            lambda: self.committed - len(self.receiver.requests) < _AHEAD, "the receiver has caught up"
        )

    @property
    def committed(self) -> int:
        """Number of deliveries that must arrive."""
        return sum(len(stream.committed) * len(stream.paths) for stream in self.streams)

    async def arrived(self, within_s: float = PATIENCE_S) -> None:
        """Waits until the receiver has every event that is committed now."""
        missing = [pair for stream in self.streams for pair in stream.expected()]

        def all_there() -> bool:
            while missing and missing[-1] in self.receiver.requests:
                missing.pop()
            return not missing

        await self.receiver.until(all_there, "all that was committed has arrived", within_s)

    # Querying the database

    async def ask(self, sql: str, mode: Mode, *arguments: Any) -> Any:
        return await self.owner.fetchval(sql.format(schema=mode.schema), *arguments)

    async def leased(self, worker: int | None = None) -> int:
        """Returns the number of deliveries in flight, of one worker or of all."""
        held = "SELECT count(*) FROM {schema}.webhook_deliveries WHERE lease IS NOT NULL AND leased_by = coalesce($1, leased_by)"
        return sum([await self.ask(held, mode, worker) for mode in Mode])

    async def workers(self) -> set[int]:
        return {row["id"] for row in await self.owner.fetch("SELECT id FROM core.workers")}

    async def is_taken_over(self, worker: int) -> bool:
        return worker not in await self.workers() and not await self.leased(worker)

    # The final check

    async def check_deliveries(self, living: set[int]) -> None:
        """Waits until all is settled, checks every row and arrival, and records the figures."""
        for stream in self.streams:
            await self._resolve_doubts(stream)
        await self.arrived()
        for mode in Mode:
            await eventually(partial(self._settled, mode), f"every delivery of {mode} is settled", PATIENCE_S)
        for mode in Mode:
            await self._check_rows(mode)
        assert await self.workers() == living
        self._check_arrivals()

    async def _resolve_doubts(self, stream: Stream) -> None:
        found = await self.owner.fetch(
            f"SELECT id FROM {stream.mode.schema}.events WHERE id = ANY($1)", list(stream.doubtful)
        )
        if stream.doubtful:
            self.figures.count("events in doubt", len(stream.doubtful))
        stream.committed |= {row["id"] for row in found}
        stream.rolled_back |= stream.doubtful - stream.committed
        stream.doubtful.clear()

    async def _settled(self, mode: Mode) -> bool:
        expected = sum(len(s.committed) * len(s.paths) for s in self.streams if s.mode is mode)
        return not await self.ask(_UNSETTLED, mode, EVENT_TYPE, expected)

    async def _check_rows(self, mode: Mode) -> None:
        rows = await self.owner.fetch(_ROWS.format(schema=mode.schema), EVENT_TYPE)
        wanted = {
            (event, endpoint)
            for stream in self.streams
            if stream.mode is mode
            for event in stream.committed
            for endpoint in stream.paths.values()
        }
        assert len(rows) == len(wanted), "one row for each event and endpoint"
        assert {(row["event_id"], row["endpoint_id"]) for row in rows} == wanted
        wrong = await self.owner.fetch(_WRONG.format(schema=mode.schema) + " LIMIT 5")
        assert not wrong, f"wrong deliveries: {wrong}"
        log = await self.owner.fetchrow(_GAPS.format(schema=mode.schema))
        assert log["events"] == log["logged"] == log["last"], "every event has its position, without a gap"
        assert log["dead"] == 0
        enabled = "SELECT bool_and(enabled) FROM core.webhook_endpoints"
        assert await self.owner.fetchval(enabled), "no endpoint was disabled"

    def _check_arrivals(self) -> None:
        assert not self.receiver.refused, self.receiver.refused[:5]
        expected = set().union(*(stream.expected() for stream in self.streams))
        assert self.receiver.requests.keys() == expected
        repeats = [count - 1 - self._failures(pair) for pair, count in self.receiver.requests.items()]
        assert min(repeats) >= 0, "a failed request was not retried"
        self.figures.deliveries = len(expected)
        self.figures.duplicates = sum(repeats)
        assert self.figures.duplicates <= self.figures.in_flight, self.figures.line()

    def _failures(self, pair: tuple[str, str]) -> int:
        """Returns how often the receiver failed it on purpose."""
        return sum(self.receiver.respond(*pair, nth).status != 200 for nth in (1, 2, 3))


@asynccontextmanager
async def scenario(
    url: str, key: bytes, receiver: FaultReceiver, figures: Figures
) -> AsyncIterator[Scenario]:
    """Creates a tenant with endpoints at the receiver in each mode of a migrated database.

    `url` is its owner's.
    """
    async with Database.open(url, key, max_per_role=1) as database:
        streams = [await _stream(database, mode, receiver) for mode in Mode]
    owner = await asyncpg.create_pool(url, min_size=0, max_size=4, timeout=5, command_timeout=30)
    try:
        yield Scenario(url, key, owner, receiver, streams, figures, Random(SEED))
    finally:
        owner.terminate()
        await asyncio.sleep(0)  # the loop closes what has been terminated


async def _stream(database: Database, mode: Mode, receiver: FaultReceiver) -> Stream:
    tenant, _keys = await tenants.create(database.core, f"Lagos Gym {mode}")
    paths = {
        f"/{mode}/{number}": receiver.register_endpoint(f"/{mode}/{number}") for number in range(_ENDPOINTS)
    }
    ids = {
        path: await add_endpoint(database, tenant, receiver.url + path, mode=mode, secret=secret)
        for path, secret in paths.items()
    }
    return Stream(mode, tenant, ids)
