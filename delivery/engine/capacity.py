"""How much a worker has in flight in one mode: a pure count of places, in all, per tenant, per endpoint and per lane,
and of characters. It bounds memory, and keeps one endpoint, or one tenant's many, or the retries, from taking every slot.

    take ──► under way ──answered──► answered, not yet written ──written──► gone
             counts for the tenant,  counts for memory alone
             the endpoint, the lane

An endpoint begins with few places of its own. Each answer, good or bad, gives it one more, up to the limit; each
attempt that hangs until its deadline takes half of them, down to one. Slow answers cost places only while these are
scarce, and never the first few. So who answers is limited by the others' share alone, and who hangs holds one slot.
After its breaker has opened an endpoint starts again from one slot: a slow start.

Of every share (the whole, a tenant's, an endpoint's) lane RETRY gets half, so that fresh events always find places.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple
from uuid import UUID

from schema.deliveries.deliveries import Lane

FIRST_SLOTS: Final = 4
_REMEMBERED: Final = 10_000
_LEAST_EXPECTED: Final = 16 * 1024
_MOST_UNSIZED: Final = (
    500  # what a claim may bring beyond all expectation is bounded by this many of the largest
)
_SCARCE: Final = 4  # places are scarce while less than a quarter is free


class Manner(Enum):
    """How an attempt held its slot."""

    QUICK = auto()
    SLOW = auto()
    HUNG = auto()


class Slot(NamedTuple):
    """Whose a place is."""

    tenant_id: UUID
    endpoint_id: UUID
    lane: Lane = Lane.FIRST


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    total: int = 8000
    """Deliveries in hand: under way, or answered and not yet written."""
    per_tenant: int = 500
    per_endpoint: int = 100
    size: int = 32 * 1024 * 1024
    """Characters of event data, in all; one of them has one to four bytes."""
    largest: int = 256 * 1024
    """Characters that a delivery may turn out to have when it is claimed unseen."""
    under_way: int = 2000
    """Of `total`. It bounds connections, where `total` bounds memory: writing in batches takes longer than most answers."""


def _half(places: int) -> int:
    return max(1, places // 2)


class _Taken:
    """Places taken by a tenant or an endpoint, and how many of them in lane RETRY."""

    __slots__ = ("all", "retries")

    def __init__(self) -> None:
        self.all = 0
        self.retries = 0


class Capacity:
    def __init__(self, limits: CapacityLimits) -> None:
        self._limits = limits
        self._tenants: dict[UUID, _Taken] = {}
        self._endpoints: dict[UUID, _Taken] = {}
        self._allowed: dict[UUID, int] = {}
        self._retries = 0
        self._under_way = 0
        self._size = 0
        self._seen = 0
        self.in_flight = 0
        """Places taken, until what came of them is written."""

    @property
    def free(self) -> int:
        return min(self._limits.total - self.in_flight, self._limits.under_way - self._under_way)

    @property
    def free_unsized(self) -> int:
        """Places for deliveries whose size is not known yet; one at least when nothing is in flight."""
        expected = min(self._limits.largest, max(_LEAST_EXPECTED, self._seen))
        by_size = (self._limits.size - self._size) // expected
        return max(0, min(self.free, _MOST_UNSIZED, by_size if self.in_flight else max(1, by_size)))

    @property
    def _retry_slots_left(self) -> int:
        return _half(min(self._limits.total, self._limits.under_way)) - self._retries

    @property
    def slots(self) -> int:
        """How many attempts may be under way when nothing is."""
        return min(self._limits.total, self._limits.under_way)

    @property
    def under_way(self) -> dict[Lane, int]:
        """Attempts that have not been answered."""
        return {Lane.FIRST: self._under_way - self._retries, Lane.RETRY: self._retries}

    def allowed(self, endpoint_id: UUID) -> int:
        """Places that the endpoint has earned."""
        return min(self._limits.per_endpoint, self._allowed.get(endpoint_id, FIRST_SLOTS))

    def taken(self, endpoint_id: UUID) -> int:
        """Places that it holds."""
        return self._endpoints.get(endpoint_id, _NOTHING).all

    def free_for(self, slot: Slot) -> int:
        limits, (tenant_id, endpoint_id, lane) = self._limits, slot
        tenant = self._tenants.get(tenant_id, _NOTHING)
        endpoint = self._endpoints.get(endpoint_id, _NOTHING)
        allowed = self.allowed(endpoint_id)
        room = min(self.free, limits.per_tenant - tenant.all, allowed - endpoint.all)
        if lane is Lane.FIRST:
            return room
        return min(
            room,
            self._retry_slots_left,
            _half(limits.per_tenant) - tenant.retries,
            _half(allowed) - endpoint.retries,
        )

    def reserve(self, slot: Slot, size: int) -> bool:
        """Takes a slot for one more delivery of this many characters, if it may go out now."""
        if self.free_for(slot) < 1 or (self.in_flight and self._size + size > self._limits.size):
            return False
        self._take(slot, 1, size)
        return True

    def take(self, slot: Slot, count: int = 1, size: int = 0) -> None:
        """`count` must be within `room`; `size` is in characters, of all of them together."""
        if count > self.free_for(slot):
            raise ValueError("more taken than there is room for")
        self._take(slot, count, size)

    def _take(self, slot: Slot, count: int, size: int) -> None:
        retries = count if slot.lane is Lane.RETRY else 0
        for counts, key in ((self._tenants, slot.tenant_id), (self._endpoints, slot.endpoint_id)):
            taken = counts.get(key)
            if taken is None:
                taken = counts[key] = _Taken()
            taken.all += count
            taken.retries += retries
        self._retries += retries
        self._under_way += count
        self.in_flight += count
        self._size += size

    def add_sizes(self, size: int, largest: int = 0) -> None:
        """Characters of what was taken unseen, in all and of the largest: what to expect of the next."""
        self._size += size
        self._seen = max(largest, self._seen * 9 // 10)

    def release_slot(self, slot: Slot, count: int = 1) -> None:
        """The endpoint's places are free again, before what it said is written."""
        if count > self._endpoints.get(slot.endpoint_id, _NOTHING).all:
            raise ValueError("more given back than was taken")
        retries = count if slot.lane is Lane.RETRY else 0
        for counts, key in ((self._tenants, slot.tenant_id), (self._endpoints, slot.endpoint_id)):
            taken = counts[key]
            taken.all -= count
            taken.retries -= retries
            if not taken.all:
                del counts[key]  # they come and go; the count must not grow with them
        self._retries -= retries
        self._under_way -= count

    def release_memory(self, count: int = 1, size: int = 0) -> None:
        self.in_flight -= count
        self._size -= size

    def release(self, slot: Slot, count: int = 1, size: int = 0) -> None:
        """What was taken and not used."""
        if count:
            self.release_slot(slot, count)
        self.release_memory(count, size)

    def learn(self, endpoint_id: UUID, manner: Manner) -> None:
        now = self.allowed(endpoint_id)
        if manner is Manner.HUNG:
            self._allow(endpoint_id, max(1, now // 2))
        elif manner is Manner.SLOW and self.free * _SCARCE < self.slots:
            self._allow(endpoint_id, max(min(now, FIRST_SLOTS), now // 2))
        elif now < self._limits.per_endpoint:
            self._allow(endpoint_id, now + 1)

    def start_slowly(self, endpoint_id: UUID) -> None:
        """One place at a time, from which it may grow again."""
        self._allow(endpoint_id, 1)

    def _allow(self, endpoint_id: UUID, places: int) -> None:
        self._allowed[endpoint_id] = places
        if len(self._allowed) > _REMEMBERED:
            del self._allowed[next(iter(self._allowed))]

    def shares(self, waiting: Sequence[Slot]) -> list[tuple[Slot, int]]:
        """What to claim for each of these, all of one lane, unseen: alike for all, no more than each one's room and
        what is free.

        Where there are fewer places than endpoints the first ones get them; the caller goes round.
        """
        if not waiting:
            return []
        retries = waiting[0].lane is Lane.RETRY
        left = self.free_unsized
        if retries:
            left = min(left, self._retry_slots_left)
        fair = max(1, left // len(waiting))
        endpoints = Counter(slot.tenant_id for slot in waiting)
        tenant_left = {tenant: self._free_for_tenant(tenant, retries=retries) for tenant in endpoints}
        tenant_fair = {tenant: max(1, tenant_left[tenant] // count) for tenant, count in endpoints.items()}
        shares: list[tuple[Slot, int]] = []
        for slot in waiting:
            tenant = slot.tenant_id
            share = min(fair, tenant_fair[tenant], self.free_for(slot), tenant_left[tenant], left)
            if share > 0:
                shares.append((slot, share))
                left -= share
                tenant_left[tenant] -= share
        return shares

    def _free_for_tenant(self, tenant_id: UUID, *, retries: bool) -> int:
        taken, limit = self._tenants.get(tenant_id, _NOTHING), self._limits.per_tenant
        room = limit - taken.all
        return min(room, _half(limit) - taken.retries) if retries else room


_NOTHING: Final = _Taken()
