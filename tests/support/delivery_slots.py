"""A worker's slots as fan-out sees them, and the deliveries that fan-out creates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from consumers.consumer import Consumer
from consumers.fanout import DeliverySlots, FanOut
from schema.connections.database import Pool
from schema.deliveries.deliveries import ClaimedDelivery
from tests.support.deliveries import LEASE_FOR

WORKER = 7


@dataclass
class CountedSlots(DeliverySlots):
    """Records what fan-out takes, releases and submits; each endpoint has `per_endpoint` slots."""

    per_endpoint: int
    taken: Counter[tuple[UUID, UUID]] = field(default_factory=Counter)
    characters: int = 0
    submitted: list[ClaimedDelivery] = field(default_factory=list)
    others_wait: list[bool] = field(default_factory=list)
    uncertain: list[int] = field(default_factory=list)
    unused: int = 1_000_000
    """The number of free slots that it reports."""

    async def wait_for_slots(self) -> int:
        return self.unused

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        if self.taken[tenant_id, endpoint_id] == self.per_endpoint:
            return False
        self.taken[tenant_id, endpoint_id] += 1
        self.characters += size
        return True

    def release(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None:
        self.taken[tenant_id, endpoint_id] -= 1
        self.characters -= size
        assert self.taken[tenant_id, endpoint_id] >= 0

    def report_uncertain_commit(self, lease: int) -> None:
        self.uncertain.append(lease)

    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None:
        self.submitted += claims
        self.others_wait.append(others_wait)


def fan_out(data: Pool, slots: DeliverySlots) -> Consumer:
    return Consumer(data, FanOut(slots, lambda: WORKER, LEASE_FOR))


async def rows(data: Pool) -> list[asyncpg.Record]:
    return await data.fetch("SELECT * FROM webhook_deliveries ORDER BY id")


async def pairs(data: Pool) -> set[tuple[UUID, UUID]]:
    found = [(row["event_id"], row["endpoint_id"]) for row in await rows(data)]
    assert len(found) == len(set(found))
    return set(found)
