"""How much a worker has in flight in one mode: a pure count of places, in all, per tenant and per endpoint, and of
characters. It bounds memory, and keeps one endpoint, or one tenant's many, from taking every place.

An endpoint begins with few places of its own. Each answer, good or bad, gives it one more, up to the limit; each
attempt that hangs until its deadline takes half of them, down to one. Slow answers cost places only while these are
scarce, and never the first few. So who answers is limited by the others' share alone, and who hangs holds one place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple
from uuid import UUID

FIRST_PLACES: Final = 4
_REMEMBERED: Final = 10_000
_SCARCE: Final = 4  # places are scarce while less than a quarter is free


class Manner(Enum):
    """How an attempt held its place."""

    QUICK = auto()
    SLOW = auto()
    HUNG = auto()


class Place(NamedTuple):
    """Whose a place is."""

    tenant_id: UUID
    endpoint_id: UUID


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    total: int = 1000
    per_tenant: int = 500
    per_endpoint: int = 100
    size: int = 32 * 1024 * 1024
    """Characters of event data, in all; one of them has one to four bytes."""
    largest: int = 256 * 1024
    """Characters that a delivery may turn out to have when it is claimed unseen."""


class Capacity:
    def __init__(self, limits: CapacityLimits) -> None:
        self._limits = limits
        self._by_tenant: Counter[UUID] = Counter()
        self._by_endpoint: Counter[UUID] = Counter()
        self._allowed: dict[UUID, int] = {}
        self._size = 0
        self.in_flight = 0

    @property
    def free(self) -> int:
        return self._limits.total - self.in_flight

    @property
    def free_unseen(self) -> int:
        """Places for deliveries whose size is not known yet; one at least when nothing is in flight."""
        by_size = (self._limits.size - self._size) // self._limits.largest
        return max(0, min(self.free, by_size if self.in_flight else max(1, by_size)))

    def allowed(self, endpoint_id: UUID) -> int:
        """Places that the endpoint has earned."""
        return min(self._limits.per_endpoint, self._allowed.get(endpoint_id, FIRST_PLACES))

    def room(self, place: Place) -> int:
        return min(
            self.free,
            self._limits.per_tenant - self._by_tenant[place.tenant_id],
            self.allowed(place.endpoint_id) - self._by_endpoint[place.endpoint_id],
        )

    def fits(self, place: Place, size: int) -> bool:
        """Whether one more delivery of this many bytes may go out now."""
        return self.room(place) > 0 and (self.in_flight == 0 or self._size + size <= self._limits.size)

    def take(self, place: Place, count: int = 1, size: int = 0) -> None:
        """`count` must be within `room`; `size` is in bytes, of all of them together."""
        if count > self.room(place):
            raise ValueError("more taken than there is room for")
        self._by_tenant[place.tenant_id] += count
        self._by_endpoint[place.endpoint_id] += count
        self.in_flight += count
        self._size += size

    def weigh(self, size: int) -> None:
        """Bytes of what was taken unseen."""
        self._size += size

    def give_back(self, place: Place, count: int = 1, size: int = 0) -> None:
        if count > self._by_endpoint[place.endpoint_id]:
            raise ValueError("more given back than was taken")
        for counts, key in ((self._by_tenant, place.tenant_id), (self._by_endpoint, place.endpoint_id)):
            counts[key] -= count
            if not counts[key]:
                del counts[key]  # they come and go; the count must not grow with them
        self.in_flight -= count
        self._size -= size

    def learn(self, endpoint_id: UUID, manner: Manner) -> None:
        now = self.allowed(endpoint_id)
        if manner is Manner.HUNG:
            self._allowed[endpoint_id] = max(1, now // 2)
        elif manner is Manner.SLOW and self.free * _SCARCE < self._limits.total:
            self._allowed[endpoint_id] = max(min(now, FIRST_PLACES), now // 2)
        else:
            self._allowed[endpoint_id] = now + 1
        if len(self._allowed) > _REMEMBERED:
            del self._allowed[next(iter(self._allowed))]

    def shares(self, waiting: Sequence[Place]) -> list[tuple[Place, int]]:
        """What to claim for each of these, unseen: alike for all, no more than each one's room and what is free.

        Where there are fewer places than endpoints the first ones get them; the caller goes round.
        """
        left = self.free_unseen
        fair = max(1, left // len(waiting)) if waiting else 0
        endpoints = Counter(place.tenant_id for place in waiting)
        tenant_left = {t: self._limits.per_tenant - self._by_tenant[t] for t in endpoints}
        tenant_fair = {t: max(1, tenant_left[t] // count) for t, count in endpoints.items()}
        shares: list[tuple[Place, int]] = []
        for place in waiting:
            tenant = place.tenant_id
            share = min(fair, tenant_fair[tenant], self.room(place), tenant_left[tenant], left)
            if share > 0:
                shares.append((place, share))
                left -= share
                tenant_left[tenant] -= share
        return shares
