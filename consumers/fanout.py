"""Fan-out: creates one delivery per event and matching endpoint, in the transaction that moves the cursor.

Deliveries with a free slot are leased in the same insert, and submitted to this worker's dispatcher after the commit. The
others wait in the table until a worker claims them. Nothing is lost between the commit and the submit: the leases of a
dead worker are taken over, and leases of a commit that seemed to fail are released (delivery/engine/dispatcher.py).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

import asyncpg

from consumers.consumer import Applied
from consumers.event_type_matching import targets_of
from schema.connections.database import Connection
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, EndpointTarget, PlannedDelivery
from schema.event_log.log import LoggedEvent
from schema.ids import new_id

FANOUT: Final = "fanout"
MAX_PAIRS: Final = 2000
"""Deliveries planned at a time: a batch for many endpoints must not block the event loop."""


class DeliverySlots(Protocol):
    """Gives out a worker's in-flight slots and takes the deliveries for them; the dispatcher implements it."""

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        """Takes a slot for one delivery with `size` characters of data; False if none is free."""

    async def wait_for_slots(self) -> int:
        """Waits briefly while slots are few, and returns how many are free; 0 is possible."""

    def release(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None: ...
    def report_uncertain_commit(self, lease: int) -> None:
        """Reports the lease of a transaction that failed but may have been committed."""

    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None:
        """Sends deliveries whose slots are reserved. `others_wait`: the table has new ones without a slot."""


class NoSlots:
    """No slots, for a process that does not send: every delivery waits in the table."""

    async def wait_for_slots(self) -> int:
        return 0

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:  # noqa: ARG002
        return False

    def release(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None: ...
    def report_uncertain_commit(self, lease: int) -> None: ...
    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class _Handover:
    slots: DeliverySlots
    claims: Sequence[ClaimedDelivery]
    others_wait: bool = False

    def committed(self) -> None:
        self.slots.submit(self.claims, others_wait=self.others_wait)

    def rolled_back(self) -> None:
        for lease in {claim.lease for claim in self.claims}:
            self.slots.report_uncertain_commit(lease)
        self.release()

    def release(self) -> None:
        for claim in self.claims:
            self.slots.release(claim.tenant_id, claim.endpoint_id, len(claim.data))


class FanOut:
    name = FANOUT

    def __init__(
        self, slots: DeliverySlots, worker_id: Callable[[], int], lease_for: timedelta = deliveries.LEASE_FOR
    ) -> None:
        self._slots = slots
        self._worker_id = worker_id
        self._lease_for = lease_for
        self._insert_only = False
        self._max_pairs = MAX_PAIRS

    async def ready(self, *, behind: bool) -> int:  # noqa: ARG002  the number of free slots decides
        """Limits a batch to the free slots, because a delivery that waits in the table costs more. With no free slot the
        batch is not limited: endpoints hang, and fan-out must not wait for them."""
        self._max_pairs = min(MAX_PAIRS, await self._slots.wait_for_slots() or MAX_PAIRS)
        return self._max_pairs

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        routes = await deliveries.endpoints_of_tenants(tx, list({event.tenant_id for event in events}))
        covered, pairs = _pairs(events, routes.targets, self._max_pairs)
        if not pairs or routes.now is None:
            return Applied(covered)
        lease = deliveries.new_lease()
        planned = [self._plan(event, target) for event, target in pairs]
        claimed = [
            _claim(p, event, target, lease)
            for p, (event, target) in zip(planned, pairs, strict=True)
            if p.claimed
        ]
        try:
            new = await self._insert(tx, planned, lease, routes.now)
        except BaseException:
            _Handover(self._slots, claimed).release()
            raise
        if len(new) == len(planned):
            return Applied(covered, _Handover(self._slots, claimed, others_wait=len(claimed) < len(new)))
        # Not new if the cursor was set back: this pair has a delivery already.
        _Handover(self._slots, [claim for claim in claimed if claim.id not in new]).release()
        handed_over = [claim for claim in claimed if claim.id in new]
        return Applied(covered, _Handover(self._slots, handed_over, others_wait=len(handed_over) < len(new)))

    async def _insert(
        self, tx: Connection, planned: Sequence[PlannedDelivery], lease: int, now: datetime
    ) -> Collection[UUID]:
        """Returns the ids that are new. All are, unless the cursor was set back or a backfill was first.

        COPY fails if a delivery exists already; the batch is then applied again with INSERT. A single event always uses
        INSERT, because a dead-lettered event is applied once."""
        worker = self._worker_id()
        alone = planned[0].event_id == planned[-1].event_id
        if self._insert_only or alone or len(planned) < deliveries.WORTH_A_COPY:
            new = await deliveries.fan_out(tx, planned, lease, worker, self._lease_for)
            self._insert_only = len(new) < len(planned)
            return new
        try:
            return await deliveries.copy_new_deliveries(tx, planned, lease, worker, now, self._lease_for)
        except asyncpg.UniqueViolationError:
            self._insert_only = True
            raise

    def _plan(self, event: LoggedEvent, target: EndpointTarget) -> PlannedDelivery:
        return PlannedDelivery(
            new_id(),
            event.tenant_id,
            target.id,
            event.id,
            event.type,
            event.created_at,
            target.enabled,
            target.enabled
            and not target.held
            and self._slots.reserve(event.tenant_id, target.id, len(event.data)),
        )


def _pairs(
    events: Sequence[LoggedEvent], targets: Sequence[EndpointTarget], most: int
) -> tuple[int, list[tuple[LoggedEvent, EndpointTarget]]]:
    """Matches whole events with endpoints until `most` pairs are reached; returns how many events, and the pairs."""
    by_tenant: defaultdict[UUID, list[EndpointTarget]] = defaultdict(list)
    for target in targets:
        by_tenant[target.tenant_id].append(target)
    pairs: list[tuple[LoggedEvent, EndpointTarget]] = []
    for covered, event in enumerate(events):
        if len(pairs) >= most:
            return covered, pairs
        pairs += [
            (event, target) for target in targets_of(event.type, event.data, by_tenant[event.tenant_id])
        ]
    return len(events), pairs


def _claim(
    planned: PlannedDelivery, event: LoggedEvent, target: EndpointTarget, lease: int
) -> ClaimedDelivery:
    return ClaimedDelivery(
        planned.id,
        planned.tenant_id,
        planned.endpoint_id,
        planned.event_id,
        planned.event_type,
        planned.created_at,
        0,
        False,
        event.data,
        lease,
        target,
    )
