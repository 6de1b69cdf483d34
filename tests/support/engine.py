"""One mode's delivery engine around a real database and real sockets, put together as
service/worker/composition.py does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson

from consumers.consumer import Consumer
from consumers.fanout import FanOut, NoSlots
from consumers.sequencing import Sequencer
from delivery.egress.guard import EgressGuard, EgressPolicy, parse_cidrs
from delivery.egress.resolver import SystemResolver
from delivery.engine.attempting import Attempts
from delivery.engine.capacity import CapacityLimits
from delivery.engine.dispatcher import Dispatcher, DispatchLimits
from delivery.engine.request_building import Outbound
from delivery.engine.retry_policy import RetryPolicy
from delivery.engine.settler import PendingSettlement, Settler
from delivery.health.health_tracker import HealthTracker
from delivery.http.attempt_contract import SendLimits
from delivery.http.http_sender import HttpSender
from delivery.message.endpoint_secret import generate_secret
from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.core.endpoints import NewEndpoint
from schema.ids import new_id
from schema.modes import Mode
from schema.secret_box import SecretBox
from tests.support.arrivals import Arrivals

LATER = RetryPolicy((timedelta(hours=1),) * 3, jitter=0)
"""A failed attempt is not retried during a test."""
AT_ONCE = RetryPolicy((timedelta(0),) * 3, jitter=0)


class Runs(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


@dataclass(frozen=True)
class Engine:
    pool: Pool
    dispatcher: Dispatcher
    settler: Settler
    fanout: Consumer
    sequencer: Sequencer
    settled: Arrivals[PendingSettlement]
    """Every result that was written or given up."""

    async def submit_all(self) -> None:
        """Sequences and fans out all events, and submits the deliveries that have a slot."""
        while await self.sequencer.step():
            pass
        while await self.fanout.step():
            pass

    async def leave_pending(self) -> None:
        """The same, but every delivery waits in the table."""
        while await self.sequencer.step():
            pass
        elsewhere = Consumer(self.pool, FanOut(NoSlots(), lambda: 0))
        while await elsewhere.step():
            pass

    async def rows(self) -> list[dict[str, Any]]:
        """The deliveries, oldest event first."""
        found = await self.pool.fetch(
            "SELECT d.*, l.pos FROM webhook_deliveries d JOIN event_log l ON l.event_id = d.event_id"
            " ORDER BY l.pos, d.endpoint_id"
        )
        return [dict(row) for row in found]

    async def attempts(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.pool.fetch("SELECT * FROM webhook_attempts ORDER BY id")]

    async def statuses(self) -> list[str]:
        return [row["status"] for row in await self.rows()]

    def everything(self) -> "tuple[Runs, ...]":
        """Its parts, in the order in which they start."""
        return (self.settler, self.dispatcher, self.fanout, self.sequencer)

    async def leased(self) -> int:
        count: int = await self.pool.fetchval(
            "SELECT count(*) FROM webhook_deliveries WHERE lease IS NOT NULL"
        )
        return count


def in_flight_limits(total: int = 1000, *, per_tenant: int = 500, per_endpoint: int = 100) -> CapacityLimits:
    return CapacityLimits(total, per_tenant, per_endpoint)


@asynccontextmanager
async def engine(
    database: Database,
    *,
    mode: Mode = Mode.TEST,
    limits: DispatchLimits = DispatchLimits(),  # noqa: B008  frozen
    policy: RetryPolicy = LATER,
    worker_id: Callable[[], int] = lambda: 1,
    key: bytes | None = None,
    last_tries_s: float = 3.0,
    attempt_timeout: float = SendLimits().attempt_timeout,
) -> AsyncIterator[Engine]:
    """Builds an engine that is not running. `key`: the key for secrets, if not the database's."""
    pool = database.data(mode)
    resolver = SystemResolver()
    guard = EgressGuard(EgressPolicy(parse_cidrs("127.0.0.0/8")), resolver)
    sender = HttpSender(guard, SendLimits(attempt_timeout=attempt_timeout))
    health = HealthTracker(lambda: datetime.now(UTC))
    settler = Settler(pool, health, last_tries_s)
    outbound = Outbound(SecretBox(key or database.key), "Duro", "Duro-Webhooks/test")
    dispatcher = Dispatcher(pool, worker_id, Attempts(outbound, sender, policy), settler, health, limits)
    fanout = Consumer(pool, FanOut(dispatcher, worker_id))
    settled = listen(settler)
    try:
        yield Engine(pool, dispatcher, settler, fanout, Sequencer(pool, fanout.poll_timer.hint), settled)
    finally:
        await sender.close()
        await resolver.close()


def listen(settler: Settler) -> Arrivals[PendingSettlement]:
    """Collects its results from here on. An earlier callback is still called."""
    settled: Arrivals[PendingSettlement] = Arrivals()
    earlier = settler.on_settled

    def collect(result: PendingSettlement) -> None:
        earlier(result)
        settled.add(result)

    settler.on_settled = collect
    return settled


@asynccontextmanager
async def running(*parts: Runs) -> AsyncIterator[None]:
    """Runs them, and stops them in reverse order. An error of a part fails the test."""
    stops = [asyncio.Event() for _ in parts]
    tasks = [asyncio.create_task(part.run(stop)) for part, stop in zip(parts, stops, strict=True)]
    try:
        yield
        for stop, task in reversed(list(zip(stops, tasks, strict=True))):
            stop.set()
            async with asyncio.timeout(10):
                await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def add_endpoint(
    database: Database,
    tenant: UUID,
    url: str,
    *,
    mode: Mode = Mode.TEST,
    secret: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    event_types: Sequence[str] = (),
    endpoint_id: UUID | None = None,
) -> UUID:
    """Saves an endpoint without the checks of its URL and headers."""
    box = SecretBox(database.key)
    endpoint_id = endpoint_id or new_id()
    sealed_headers = box.seal(orjson.dumps(list(headers)).decode(), endpoint_id.bytes) if headers else None
    sealed_secret = box.seal(secret or generate_secret(), endpoint_id.bytes)
    await endpoints.create(
        database.core,
        NewEndpoint(endpoint_id, tenant, mode, url, "", event_types, sealed_headers, sealed_secret),
    )
    return endpoint_id


async def rotate(database: Database, endpoint_id: UUID, secret: str, grace: timedelta) -> None:
    sealed = SecretBox(database.key).seal(secret, endpoint_id.bytes)
    await endpoints.rotate_secret(database.core, endpoint_id, sealed, grace)
