"""How much a worker has in flight: a pure count, in all and per endpoint, that bounds its memory and keeps one
endpoint from taking every place.
"""

from collections import Counter
from uuid import UUID


class Capacity:
    def __init__(self, total: int, per_endpoint: int) -> None:
        self._total = total
        self._per_endpoint = per_endpoint
        self._taken: Counter[UUID] = Counter()
        self._sum = 0

    @property
    def in_flight(self) -> int:
        return self._sum

    @property
    def free(self) -> int:
        return self._total - self._sum

    def room(self, endpoint_id: UUID) -> int:
        return min(self.free, self._per_endpoint - self._taken[endpoint_id])

    def take(self, endpoint_id: UUID, count: int = 1) -> None:
        if count > self.room(endpoint_id):
            raise ValueError("more taken than there is room for")
        self._taken[endpoint_id] += count
        self._sum += count

    def give_back(self, endpoint_id: UUID, count: int = 1) -> None:
        if count > self._taken[endpoint_id]:
            raise ValueError("more given back than was taken")
        self._taken[endpoint_id] -= count
        self._sum -= count
        if not self._taken[endpoint_id]:
            del self._taken[endpoint_id]  # endpoints come and go; the count must not grow with them

    def shares(self, endpoints: list[UUID]) -> list[tuple[UUID, int]]:
        """What to claim for each of these endpoints: alike for all, no more than its own room, no more than is free."""
        with_room = [endpoint_id for endpoint_id in endpoints if self.room(endpoint_id) > 0][: self.free]
        fair = self.free // len(with_room) if with_room else 0
        return [(endpoint_id, min(fair, self.room(endpoint_id))) for endpoint_id in with_room]
