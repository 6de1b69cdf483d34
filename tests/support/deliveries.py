"""Drives one endpoint's deliveries through their states by direct calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.deliveries import deliveries, delivery_history, replays
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, Lane, PlannedDelivery, Settlement, Verdict
from schema.event_log.log import LoggedEvent
from schema.ids import new_id
from schema.modes import Mode
from tests.support.events import sequenced

LEASE_FOR = timedelta(minutes=5)
WORKER = 1


async def new_endpoint(
    database: Database,
    tenant: UUID,
    mode: Mode = Mode.TEST,
    *,
    event_types: Sequence[str] = (),
    enabled: bool = True,
) -> UUID:
    new = endpoints.NewEndpoint(
        new_id(), tenant, mode, "https://merchant.example/hook", "", event_types, None, b"sealed"
    )
    await endpoints.create(database.core, new)
    if not enabled:
        await database.data(mode).fetchval("SELECT disable_endpoint($1, 'asked for', NULL)", new.id)
    return new.id


def plan(
    event: LoggedEvent, endpoint: UUID, *, enabled: bool = True, claimed: bool = False
) -> PlannedDelivery:
    return PlannedDelivery(
        new_id(), event.tenant_id, endpoint, event.id, event.type, event.created_at, enabled, claimed
    )


def attempt(outcome: str = "http_status", status_code: int | None = 500) -> Attempt:
    return Attempt(
        id=new_id(),
        started_at=datetime.now(UTC),
        outcome=outcome,
        status_code=status_code,
        error=None,
        response_body=b"",
        address="192.0.2.1",
        dns_ms=None,
        connect_ms=None,
        tls_ms=None,
        first_byte_ms=None,
        total_ms=1.0,
    )


@dataclass
class Queue:
    data: Pool
    tenant: UUID
    endpoint: UUID

    async def add(self, count: int = 1, *, enabled: bool = True) -> list[UUID]:
        """Records events and fans them out to the endpoint. Returns the ids of the pending deliveries."""
        events = await sequenced(self.data, self.tenant, count)
        planned = [plan(event, self.endpoint, enabled=enabled) for event in events]
        async with self.data.acquire() as tx:
            await deliveries.fan_out(tx, planned, deliveries.new_lease(), WORKER, LEASE_FOR)
        return [delivery.id for delivery in planned]

    async def claim(
        self,
        room: int = 100,
        *,
        worker: int = WORKER,
        lease_for: timedelta = LEASE_FOR,
        lanes: Sequence[Lane] = tuple(Lane),
    ) -> list[ClaimedDelivery]:
        async with self.data.acquire() as tx, tx.transaction():
            lease = deliveries.new_lease()
            found: list[ClaimedDelivery] = []
            for lane in lanes:
                wanted = [(self.endpoint, room - len(found))]
                found += await deliveries.claim(tx, lane, wanted, lease, worker, lease_for)
            return found

    async def claim_one(self) -> ClaimedDelivery:
        (claimed,) = await self.claim()
        return claimed

    async def settle(
        self,
        claimed: ClaimedDelivery,
        verdict: Verdict,
        *,
        retry_in: timedelta | None = None,
        tried: Attempt | None = None,
    ) -> bool:
        """Returns whether the lease was still valid. Adds an attempt unless the verdict is SKIPPED."""
        made = None if verdict is Verdict.SKIPPED else tried or attempt()
        async with self.data.acquire() as tx:
            settled = await deliveries.settle(tx, [Settlement(claimed, verdict, retry_in, made)])
        assert settled <= {claimed.id}
        return bool(settled)

    async def show(self, delivery: UUID) -> delivery_history.DeliveryDetail:
        return await delivery_history.show(self.data, self.tenant, delivery)

    async def replay(self, delivery: UUID) -> str:
        return await replays.replay_one(self.data, self.tenant, delivery)

    async def make_due(self, owner: asyncpg.Connection, delivery: UUID) -> None:
        """Makes the next scheduled attempt due now."""
        await owner.execute(
            "UPDATE sandbox.webhook_deliveries SET due_at = now(), retry_at = now() WHERE id = $1", delivery
        )
