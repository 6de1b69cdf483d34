"""The endpoints whose deliveries wait in the table, as far as this worker knows: newer ones must not overtake them.

The trap is a read of the table beside a fan-out: it does not see deliveries that are not committed yet. So fan-out's
endpoints are added again after the commit, and a read removes only endpoints that were added before it began.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from uuid import UUID


class Overflow:
    def __init__(self) -> None:
        self._added: dict[UUID, int] = {}
        self._count = 0

    def __contains__(self, endpoint_id: UUID) -> bool:
        return endpoint_id in self._added

    def __bool__(self) -> bool:
        return bool(self._added)

    @property
    def endpoints(self) -> AbstractSet[UUID]:
        return self._added.keys()

    def add(self, endpoint_ids: Iterable[UUID]) -> None:
        self._count += 1
        self._added.update(dict.fromkeys(endpoint_ids, self._count))

    def begin_read(self) -> int:
        """Call it before a read of the table, and pass the result to `remove`."""
        return self._count

    def remove(self, endpoint_ids: Iterable[UUID], read: int) -> None:
        """Removes endpoints without waiting deliveries, unless they were added after the read began."""
        for endpoint_id in list(endpoint_ids):
            if self._added.get(endpoint_id, read + 1) <= read:
                del self._added[endpoint_id]
