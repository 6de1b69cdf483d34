"""In-flight limits of a worker in one mode: a pure count of slots (per worker, tenant, endpoint and lane) and of memory.
The limits bound memory, and keep one endpoint, one tenant or the retries from taking every slot.

    take ──► under way ──release_slot──► answered, not written ──release_memory──► gone
             counts for the tenant,      counts for memory only
             the endpoint, the lane

An endpoint starts with a few slots. Each response, good or bad, adds one, up to the limit; each attempt that hangs until
its deadline halves them, down to one. Slow responses halve them only while free slots are scarce, and never below the
initial few. So an endpoint that answers gets what the others leave, and one that hangs holds a single slot.
After its circuit breaker has opened, an endpoint starts again from one slot: a slow start.

Lane RETRY gets at most half of every limit (the worker's, a tenant's, an endpoint's), so that first attempts always find
slots.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple
from uuid import UUID

from schema.deliveries.deliveries import Lane

FIRST_SLOTS: Final = 4
_MAX_KNOWN: Final = 10_000
_MIN_EXPECTED: Final = 16 * 1024
_MAX_UNSIZED: Final = 500  # bounds the memory of a claim when every delivery is of the largest size
_SCARCE: Final = 4  # slots are scarce while fewer than a quarter are free


class ResponseTime(Enum):
    """How long an attempt held its slot."""

    QUICK = auto()
    SLOW = auto()
    HUNG = auto()


class Slot(NamedTuple):
    """Whose limits a slot counts against."""

    tenant_id: UUID
    endpoint_id: UUID
    lane: Lane = Lane.FIRST


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    total: int = 8000
    """Deliveries held in memory: under way, or answered and not written yet."""
    per_tenant: int = 500
    per_endpoint: int = 100
    size: int = 32 * 1024 * 1024
    """Characters of event data in memory; a character has one to four bytes."""
    largest: int = 256 * 1024
    """Characters of the largest delivery: its size is unknown until it is claimed."""
    under_way: int = 2000
    """Attempts under way, of `total`. It bounds connections, where `total` bounds memory: writing results in batches takes
    longer than most responses."""


def _half(slots: int) -> int:
    return max(1, slots // 2)


class _Taken:
    """Slots taken by a tenant or an endpoint, and how many of them in lane RETRY."""

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
        self._largest_seen = 0
        self.in_flight = 0
        """Deliveries taken whose results are not written yet."""

    @property
    def free(self) -> int:
        return min(self._limits.total - self.in_flight, self._limits.under_way - self._under_way)

    @property
    def free_unsized(self) -> int:
        """Slots for deliveries whose size is not known yet; at least one when nothing is in flight."""
        expected = min(self._limits.largest, max(_MIN_EXPECTED, self._largest_seen))
        by_size = (self._limits.size - self._size) // expected
        return max(0, min(self.free, _MAX_UNSIZED, by_size if self.in_flight else max(1, by_size)))

    @property
    def _retry_slots_left(self) -> int:
        return _half(min(self._limits.total, self._limits.under_way)) - self._retries

    @property
    def slots(self) -> int:
        """The in-flight limit of the worker."""
        return min(self._limits.total, self._limits.under_way)

    @property
    def under_way(self) -> dict[Lane, int]:
        """Attempts without a response yet, per lane."""
        return {Lane.FIRST: self._under_way - self._retries, Lane.RETRY: self._retries}

    def allowed(self, endpoint_id: UUID) -> int:
        """The endpoint's present limit."""
        return min(self._limits.per_endpoint, self._allowed.get(endpoint_id, FIRST_SLOTS))

    def taken(self, endpoint_id: UUID) -> int:
        """Slots that the endpoint holds."""
        return self._endpoints.get(endpoint_id, _NOTHING).all

    def free_for(self, slot: Slot) -> int:
        """Slots that may be taken now; negative while the endpoint holds more than its limit."""
        limits, (tenant_id, endpoint_id, lane) = self._limits, slot
        tenant = self._tenants.get(tenant_id, _NOTHING)
        endpoint = self._endpoints.get(endpoint_id, _NOTHING)
        allowed = self.allowed(endpoint_id)
        free = min(self.free, limits.per_tenant - tenant.all, allowed - endpoint.all)
        if lane is Lane.FIRST:
            return free
        return min(
            free,
            self._retry_slots_left,
            _half(limits.per_tenant) - tenant.retries,
            _half(allowed) - endpoint.retries,
        )

    def reserve(self, slot: Slot, size: int) -> bool:
        """Takes a slot for one delivery of this many characters, if one is free."""
        if self.free_for(slot) < 1 or (self.in_flight and self._size + size > self._limits.size):
            return False
        self._take(slot, 1, size)
        return True

    def take(self, slot: Slot, count: int = 1, size: int = 0) -> None:
        """`count` must not exceed `free_for`; `size` is the total in characters."""
        if count > self.free_for(slot):
            raise ValueError("more slots taken than are free")
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
        """Adds the characters of deliveries taken before their size was known; `largest` predicts the next ones."""
        self._size += size
        self._largest_seen = max(largest, self._largest_seen * 9 // 10)

    def release_slot(self, slot: Slot, count: int = 1) -> None:
        """Frees slots once the response is there, before the result is written."""
        if count > self._endpoints.get(slot.endpoint_id, _NOTHING).all:
            raise ValueError("more slots released than were taken")
        retries = count if slot.lane is Lane.RETRY else 0
        for counts, key in ((self._tenants, slot.tenant_id), (self._endpoints, slot.endpoint_id)):
            taken = counts[key]
            taken.all -= count
            taken.retries -= retries
            if not taken.all:
                del counts[key]  # tenants and endpoints come and go: the tables must not grow with them
        self._retries -= retries
        self._under_way -= count

    def release_memory(self, count: int = 1, size: int = 0) -> None:
        """Frees the memory of deliveries whose results are written."""
        self.in_flight -= count
        self._size -= size

    def release(self, slot: Slot, count: int = 1, size: int = 0) -> None:
        """Frees slots and memory of deliveries that are not sent."""
        if count:
            self.release_slot(slot, count)
        self.release_memory(count, size)

    def adjust(self, endpoint_id: UUID, response_time: ResponseTime) -> None:
        """Changes the endpoint's limit after an attempt."""
        now = self.allowed(endpoint_id)
        if response_time is ResponseTime.HUNG:
            self._allow(endpoint_id, max(1, now // 2))
        elif response_time is ResponseTime.SLOW and self.free * _SCARCE < self.slots:
            self._allow(endpoint_id, max(min(now, FIRST_SLOTS), now // 2))
        elif now < self._limits.per_endpoint:
            self._allow(endpoint_id, now + 1)

    def start_slowly(self, endpoint_id: UUID) -> None:
        """Sets the endpoint's limit to one slot, from which it grows."""
        self._allow(endpoint_id, 1)

    def _allow(self, endpoint_id: UUID, slots: int) -> None:
        self._allowed.pop(endpoint_id, None)  # the entry that was set longest ago is evicted first
        self._allowed[endpoint_id] = slots
        if len(self._allowed) > _MAX_KNOWN:
            del self._allowed[next(iter(self._allowed))]

    def shares(self, waiting: Sequence[Slot]) -> list[tuple[Slot, int]]:
        """How many deliveries to claim for each endpoint, all of one lane: equal shares within each limit.

        With fewer slots than endpoints the first ones get them; the caller continues after those next time.
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
        free = limit - taken.all
        return min(free, _half(limit) - taken.retries) if retries else free


_NOTHING: Final = _Taken()
