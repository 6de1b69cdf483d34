"""Fan-out: one delivery per (event, matching endpoint), in the transaction that moves the cursor.

What the worker has room for it claims in the same insert and hands to its dispatcher after the commit; the
rest waits in the table for whoever has room. Between commit and hand-over nothing can be lost: the leases of a
worker that dies are taken over, and what a commit of unknown fate leaves leased to nobody's knowledge, the
worker's own audit gives back (see delivery/engine/dispatcher.py).
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
MOST_PAIRS: Final = (
    2000  # deliveries planned at a time: a batch for many endpoints must not hold up the event loop
)


class DeliverySlots(Protocol):
    """Where a worker's deliveries go; the dispatcher is one."""

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        """Takes a place for one delivery of so many characters of data, if there is one."""

    async def wait_for_slots(self) -> int:
        """Places there are; when they are few it waits a moment for more. None at all is an answer too."""

    def release(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None: ...
    def report_uncertain_commit(self, lease: int) -> None:
        """The transaction with this lease failed, and may have been committed all the same."""

    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None:
        """Sends what places were reserved for. `others_wait`: and the table has got more."""


class NoSlots:
    """For a process that does not send: everything waits in the table."""

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
        self._careful = False
        self._most_pairs = MOST_PAIRS

    async def ready(self, *, behind: bool) -> int:  # noqa: ARG002  places are what counts
        """No more than there are places for: what goes through the table is claimed, written and read once more. When
        there are none at all, somebody hangs, and the log goes on without them."""
        self._most_pairs = min(MOST_PAIRS, await self._slots.wait_for_slots() or MOST_PAIRS)
        return self._most_pairs

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        routes = await deliveries.endpoints_of_tenants(tx, list({event.tenant_id for event in events}))
        covered, pairs = _pairs(events, routes.targets, self._most_pairs)
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
        # Not new when the cursor was set back: this pair had its delivery already.
        _Handover(self._slots, [claim for claim in claimed if claim.id not in new]).release()
        handed_over = [claim for claim in claimed if claim.id in new]
        return Applied(covered, _Handover(self._slots, handed_over, others_wait=len(handed_over) < len(new)))

    async def _insert(
        self, tx: Connection, planned: Sequence[PlannedDelivery], lease: int, now: datetime
    ) -> Collection[UUID]:
        """The ids that are new. All are, unless the cursor was set back or a backfill was first: COPY does not pass by
        what is there, and fails; the batch comes again, and goes the careful way. One event alone always goes it: a
        dead-lettered one comes once."""
        worker = self._worker_id()
        alone = planned[0].event_id == planned[-1].event_id
        if self._careful or alone or len(planned) < deliveries.WORTH_A_COPY:
            new = await deliveries.fan_out(tx, planned, lease, worker, self._lease_for)
            self._careful = len(new) < len(planned)
            return new
        try:
            return await deliveries.fan_out_fresh(tx, planned, lease, worker, now, self._lease_for)
        except asyncpg.UniqueViolationError:
            self._careful = True
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
    """Who gets what, for as many whole events as make some `most` pairs; and how many events those are."""
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
