"""Fan-out: one delivery per (event, matching endpoint), in the transaction that moves the cursor.

What the worker has room for it claims in the same insert and hands to its dispatcher after the commit; the
rest waits in the table for whoever has room. Between commit and hand-over nothing can be lost: the leases of a
worker that dies are taken over, and what a commit of unknown fate leaves leased to nobody's knowledge, the
worker's own audit gives back (see delivery/dispatcher.py).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from consumers.consumer import Applied
from consumers.subscriptions import matches
from schema import deliveries
from schema.database import Connection
from schema.deliveries import ClaimedDelivery, EndpointTarget, PlannedDelivery
from schema.ids import new_id
from schema.log import LoggedEvent

FANOUT: Final = "fanout"
MOST_PAIRS: Final = (
    2000  # deliveries planned at a time: a batch for many endpoints must not hold up the event loop
)


class Room(Protocol):
    """Where a worker's deliveries go; the dispatcher is one."""

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        """Takes a place for one delivery of so many characters of data, if there is one."""

    def give_back(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None: ...
    def submit(self, claims: Sequence[ClaimedDelivery]) -> None:
        """Sends what places were reserved for."""


class NoRoom:
    """For a process that does not send: everything waits in the table."""

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:  # noqa: ARG002
        return False

    def give_back(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None: ...
    def submit(self, claims: Sequence[ClaimedDelivery]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Handover:
    room: Room
    claims: Sequence[ClaimedDelivery]

    def committed(self) -> None:
        self.room.submit(self.claims)

    def rolled_back(self) -> None:
        for claim in self.claims:
            self.room.give_back(claim.tenant_id, claim.endpoint_id, len(claim.data))


class FanOut:
    name = FANOUT

    def __init__(
        self, room: Room, worker_id: Callable[[], int], lease_for: timedelta = deliveries.LEASE_FOR
    ) -> None:
        self._room = room
        self._worker_id = worker_id
        self._lease_for = lease_for

    async def apply(self, tx: Connection, events: Sequence[LoggedEvent]) -> Applied:
        targets = await deliveries.endpoints_of_tenants(tx, list({event.tenant_id for event in events}))
        covered, pairs = _pairs(events, targets)
        if not pairs:
            return Applied(covered)
        lease = deliveries.new_lease()
        planned = [self._plan(event, target) for event, target in pairs]
        claimed = [
            _claim(p, event, target, lease)
            for p, (event, target) in zip(planned, pairs, strict=True)
            if p.claimed
        ]
        try:
            new = await deliveries.fan_out(tx, planned, lease, self._worker_id(), self._lease_for)
        except BaseException:
            _Handover(self._room, claimed).rolled_back()
            raise
        # Not new when the cursor was set back: this pair had its delivery already.
        _Handover(self._room, [claim for claim in claimed if claim.id not in new]).rolled_back()
        return Applied(covered, _Handover(self._room, [claim for claim in claimed if claim.id in new]))

    def _plan(self, event: LoggedEvent, target: EndpointTarget) -> PlannedDelivery:
        return PlannedDelivery(
            new_id(),
            event.tenant_id,
            target.id,
            event.id,
            event.type,
            event.created_at,
            target.enabled,
            target.enabled and self._room.reserve(event.tenant_id, target.id, len(event.data)),
        )


def _pairs(
    events: Sequence[LoggedEvent], targets: Sequence[EndpointTarget]
) -> tuple[int, list[tuple[LoggedEvent, EndpointTarget]]]:
    """Who gets what, for as many whole events as make some MOST_PAIRS; and how many events those are."""
    by_tenant: defaultdict[UUID, list[EndpointTarget]] = defaultdict(list)
    for target in targets:
        by_tenant[target.tenant_id].append(target)
    pairs: list[tuple[LoggedEvent, EndpointTarget]] = []
    for covered, event in enumerate(events):
        if len(pairs) >= MOST_PAIRS:
            return covered, pairs
        pairs += [
            (event, target)
            for target in by_tenant[event.tenant_id]
            if matches(target.event_types, event.type)
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
