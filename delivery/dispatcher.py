"""Sends one mode's deliveries: those that fan-out hands over, and those that wait in the table.

      fan-out ──reserve()──► place ──commit──► submit() ──┐
                 │ no room                                ├─► attempt ──► settler ──► place is free
                 ▼                                        │
          waits in the table ◄── retry, dead worker       │
                 └──────────────── claim() ───────────────┘

Memory is bounded by the places (capacity.py): what has none stays in the table. An endpoint whose deliveries have
begun to wait gets no place for new ones until the waiting ones, which are older, have been claimed. Claims go
round the endpoints that have work, with equal shares; a round that runs out of places goes on where it stopped.

The worst a crash can do is repeat: a lease is in the database before its bytes are on the wire, and the
result of an attempt that nobody settled is not known to anybody. A commit whose answer was lost may leave
deliveries leased to this worker without its knowledge; an audit finds them and makes them due again.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from delivery.attempting import Attempts
from delivery.capacity import Capacity, CapacityLimits, Place
from delivery.outbound import bodies
from delivery.settler import Settled, Settler
from schema import deliveries
from schema.database import Pool
from schema.deliveries import ClaimedDelivery
from schema.polling import Pace, through_outages

_logger = logging.getLogger(__name__)
_ENDPOINTS_PER_CLAIM = 1000
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    capacity: CapacityLimits = field(default_factory=CapacityLimits)
    audit_every: timedelta = timedelta(seconds=30)
    drain_for: timedelta = timedelta(seconds=18)
    """How long a stop waits for attempts under way."""


class Dispatcher:
    def __init__(
        self,
        pool: Pool,
        worker_id: Callable[[], int],
        attempts: Attempts,
        settler: Settler,
        limits: DispatchLimits,
    ) -> None:
        self._pool = pool
        self._worker_id = worker_id
        self._attempts = attempts
        self._settler = settler
        self._limits = limits
        self._capacity = Capacity(limits.capacity)
        self._overflowing: set[UUID] = set()
        self._held: Counter[int] = Counter()
        self._audit_at = 0.0
        self._under_way: dict[asyncio.Task[None], ClaimedDelivery] = {}
        self._round_from = _FIRST
        self._pace = Pace(first=0.02, most=0.5)
        self._open = True
        settler.on_settled = self._settled

    @property
    def in_flight(self) -> int:
        return self._capacity.in_flight

    # Room, for fan-out

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        if not self._open or endpoint_id in self._overflowing:
            return False
        place = Place(tenant_id, endpoint_id)
        if not self._capacity.fits(place, size):
            self._overflowing.add(endpoint_id)
            return False
        self._capacity.take(place, size=size)
        return True

    def give_back(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None:
        self._capacity.give_back(Place(tenant_id, endpoint_id), size=size)

    def submit(self, claims: Sequence[ClaimedDelivery]) -> None:
        made = bodies(claims)
        for claim in claims:
            self._held[claim.lease] += 1
            kept = replace(claim, data="", size=len(claim.data))  # the body holds it from here on
            task = asyncio.create_task(self._attempt(kept, made[claim.event_id]))
            self._under_way[task] = kept
            task.add_done_callback(self._ended)

    # What waits in the table

    async def run(self, stop: asyncio.Event) -> None:
        """Attempts outlive a failure in here, which the supervisor answers by running it again."""
        self._open = True
        try:
            while not stop.is_set():
                found = await through_outages(stop, "dispatcher", self.claim)
                await self._pace.wait(found=bool(found))
            await self._drain()
        except asyncio.CancelledError:
            await self._cut_off(self._under_way)
            raise

    async def claim(self) -> int:
        """Claims and submits one round of what is due; returns how many deliveries."""
        await self._audit()
        if self._capacity.free_unseen < 1:
            return 0
        waiting = await self._waiting()
        wanted = self._capacity.shares(waiting)
        self._round_from = self._goes_on_after(waiting, wanted)
        if not wanted:
            return 0
        claims = await self._lease(wanted)
        self._capacity.weigh(sum(len(claim.data) for claim in claims))
        got = Counter(claim.endpoint_id for claim in claims)
        for place, count in wanted:
            self._capacity.give_back(place, count - got[place.endpoint_id])
            if got[place.endpoint_id] < count:
                self._overflowing.discard(place.endpoint_id)
        self.submit(claims)
        return len(claims)

    async def _waiting(self) -> list[Place]:
        waiting = await self._waiting_after(self._round_from)
        if not waiting and self._round_from != _FIRST:
            self._round_from = _FIRST
            waiting = await self._waiting_after(_FIRST)
        last = waiting[-1].endpoint_id if len(waiting) == _ENDPOINTS_PER_CLAIM else _LAST
        self._overflowing -= {
            endpoint_id for endpoint_id in self._overflowing if self._round_from < endpoint_id <= last
        }.difference(place.endpoint_id for place in waiting)
        return waiting

    async def _waiting_after(self, endpoint_id: UUID) -> list[Place]:
        found = await deliveries.endpoints_waiting(self._pool, endpoint_id, _ENDPOINTS_PER_CLAIM)
        return [Place(*row) for row in found]

    def _goes_on_after(self, waiting: Sequence[Place], wanted: Sequence[tuple[Place, int]]) -> UUID:
        """Where the next round begins: after whom this one served last, whatever cap it was that ended it. Without
        it the places that become free would go to the same few ids each time."""
        last = wanted[-1][0] if wanted else waiting[-1] if waiting else None
        if last is None or (last == waiting[-1] and len(waiting) < _ENDPOINTS_PER_CLAIM):
            return _FIRST
        return last.endpoint_id

    async def _lease(self, wanted: Sequence[tuple[Place, int]]) -> list[ClaimedDelivery]:
        lease = deliveries.new_lease()
        ask = [(place.endpoint_id, count) for place, count in wanted]
        for place, count in wanted:
            self._capacity.take(place, count)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                return await deliveries.claim(tx, ask, lease, self._worker_id())
        except BaseException:
            for place, count in wanted:
                self._capacity.give_back(place, count)
            raise

    async def _audit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._audit_at:
            return
        # The connection first: what is held may change while one is waited for.
        async with self._pool.acquire() as connection:
            released = await deliveries.release_unknown_leases(
                connection, self._worker_id(), list(self._held), older_than=self._limits.audit_every
            )
        self._audit_at = now + self._limits.audit_every.total_seconds()
        if released:
            _logger.warning(
                "%d deliveries were leased here without being known; they are due again", released
            )

    # Attempts under way

    async def _attempt(self, claim: ClaimedDelivery, body: bytes) -> None:
        self._settler.put(await self._attempts.make(claim, body))

    def _ended(self, attempt: asyncio.Task[None]) -> None:
        claim = self._under_way.pop(attempt)
        if attempt.cancelled():
            self._let_go(claim)  # the lease ends with the worker
        elif error := attempt.exception():
            _logger.error("the attempt at delivery %s failed by itself", claim.id, exc_info=error)
            self._let_go(claim)  # the audit makes it due again

    def _let_go(self, claim: ClaimedDelivery) -> None:
        self._capacity.give_back(Place(claim.tenant_id, claim.endpoint_id), size=claim.size)
        self._held[claim.lease] -= 1
        if not self._held[claim.lease]:
            del self._held[claim.lease]

    def _settled(self, result: Settled) -> None:
        claim = result.settlement.claim
        self._let_go(claim)
        if result.settlement.attempt is not None:
            self._capacity.learn(claim.endpoint_id, result.manner)
        if self._overflowing:
            self._pace.hint()

    async def _drain(self) -> None:
        self._open = False
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=self._limits.drain_for.total_seconds())
            await self._cut_off(late)

    async def _cut_off(self, attempts: Collection[asyncio.Task[None]]) -> None:
        late = list(attempts)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
