"""Sends one mode's deliveries: those that fan-out hands over, and those that wait in the table.

      fan-out ──reserve()──► place ──commit──► submit() ──┐
                 │ no room, or held                       ├─► attempt ──► settler ──► place is free
                 ▼                                        │
          waits in the table ◄── retry, dead worker       │
                 └──────── claiming, lane by lane ────────┘

Memory is bounded by the places (capacity.py): what has none stays in the table. An endpoint whose deliveries have
begun to wait gets no slot for new ones until the waiting ones, which are older, have been claimed (claiming.py).

The worst a crash can do is repeat: a lease is in the database before its bytes are on the wire, and the
result of an attempt that nobody settled is not known to anybody. A commit whose answer was lost may leave
deliveries leased to this worker without its knowledge: such leases are doubted, and released by name for a while;
what even that misses an audit finds.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from delivery.engine.attempting import Attempts
from delivery.engine.capacity import Capacity, CapacityLimits, Slot
from delivery.engine.claiming import Claiming
from delivery.engine.request_building import Message, messages
from delivery.engine.settler import Settled, Settler
from delivery.health.health_book import HealthBook
from schema.connections.database import Pool
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, Lane
from schema.failures import PartFailures, current_part
from schema.polling import Pace, through_outages

_logger = logging.getLogger(__name__)
_FEW = 8
_WAIT_FOR_SLOTS_S = 0.02
_MANY_REFUSED = 250
_CATCH_UP_S = 0.1
UNCERTAIN_FOR_S = 30.0
RELEASE_UNCERTAIN_EVERY_S = 1.0
SENDERS_PER_ROUND = 64
SOON_S = 0.05
"""How long a paced or long round waits for the next; well within pacing.BURST."""


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
        health: HealthBook,
        limits: DispatchLimits,
    ) -> None:
        self._pool = pool
        self._worker_id = worker_id
        self._attempts = attempts
        self._settler = settler
        self._health = health
        self._limits = limits
        self.capacity = Capacity(limits.capacity)
        self._lanes = {
            lane: Claiming(pool, lane, self.capacity, health, worker_id, self.report_uncertain_commit)
            for lane in Lane
        }
        self._overflowing = self._lanes[Lane.FIRST].overflowing
        self._lane_order = (Lane.RETRY, Lane.FIRST)
        self._leases: Counter[int] = Counter()
        self._uncertain: dict[int, tuple[int, float]] = {}
        self._release_uncertain_at = 0.0
        self._audit_at = 0.0
        self._queue: deque[tuple[ClaimedDelivery, Message]] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._pace = Pace(first=0.02, most=0.5)
        self._accepting = True
        self._slots_scarce = (
            False  # of places for all, or for a tenant: any answer may be what somebody waits for
        )
        self._refused = 0  # for want of places, since fan-out last asked how many there are
        self._slots_free = asyncio.Event()
        self._caught_up = asyncio.Event()
        # Whoever submits starts the senders, so they cannot go by the part that they run in.
        self._part = PartFailures("")
        settler.on_settled = self._settled

    @property
    def in_flight(self) -> int:
        return self.capacity.in_flight

    # Room, for fan-out

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        if not self._accepting or not self._health.closed(endpoint_id):
            return False
        if endpoint_id in self._overflowing:
            self._refused += 1
            return False
        if not self.capacity.reserve(Slot(tenant_id, endpoint_id), size):
            self._overflowing.add(endpoint_id)
            self._refused += 1
            self._slots_scarce |= self.capacity.allowed(endpoint_id) > self.capacity.taken(endpoint_id)
            return False
        return True

    async def _catch_up(self) -> None:
        """A log that is far behind fills the table faster than claims empty it, and then each delivery takes the long
        way: written, claimed, read again. A short wait lets places grow and what waits go out, so that the next ones are
        handed over. Bounded, for an endpoint that has most of the events may be as slow as it likes."""
        self._caught_up.clear()
        self._pace.hint()
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                while self._overflowing:
                    await self._caught_up.wait()
        except TimeoutError:
            pass

    async def wait_for_slots(self) -> int:
        """Waits for an eighth of all places, but not for long: 0 when what holds the others may be hanging, for a log
        that went on by the few places left would be as slow as those."""
        refused, self._refused = self._refused, 0
        if refused >= _MANY_REFUSED:
            await self._catch_up()
        if self.capacity.free < self.capacity.slots // _FEW:
            self._slots_free.clear()
            try:
                async with asyncio.timeout(_WAIT_FOR_SLOTS_S):
                    await self._slots_free.wait()
            except TimeoutError:
                return 0
        return self.capacity.free

    def release(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> None:
        self.capacity.release(Slot(tenant_id, endpoint_id), size=size)

    def report_uncertain_commit(self, lease: int) -> None:
        """Nothing is held under it, and yet it may be in the database: its commit failed in one way or another."""
        self._uncertain[lease] = (self._worker_id(), asyncio.get_running_loop().time() + UNCERTAIN_FOR_S)
        self._pace.hint()

    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None:
        made = messages(claims)
        for claim in claims:
            self._leases[claim.lease] += 1
            claim.drop_data()  # the body holds it from here on
            self._queue.append((claim, made[claim.event_id]))
        self._send_out()
        if others_wait:
            self._pace.hint()

    def _send_out(self) -> None:
        """Starts senders for what is queued, some in each round of the loop until all is under way. A sender whose
        answer comes at once takes the next of the queue, so that quick endpoints need few of them."""
        if not self._queue:
            return
        loop = asyncio.get_running_loop()
        for _ in range(min(len(self._queue), SENDERS_PER_ROUND)):
            sender = loop.create_task(self._send_queued())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        loop.call_soon(self._send_out)

    # What waits in the table

    async def run(self, stop: asyncio.Event) -> None:
        """Attempts outlive a failure in here, which the supervisor answers by running it again."""
        self._accepting = True
        self._part = self._attempts.part = current_part()
        try:
            while not stop.is_set():
                found = await through_outages(stop, "claim deliveries", self.claim)
                await self._pace.wait(found=bool(found))
            await self._drain()
        except asyncio.CancelledError:
            await self._cut_off()
            raise

    async def claim(self) -> int:
        """Claims and submits one round of each lane; returns how many deliveries. The lanes take turns at being first,
        for the first one may leave nothing of an endpoint's places, or of its rate."""
        await self._release_uncertain_leases()
        await self._audit()
        moved = 0
        self._slots_scarce = False
        self._lane_order = self._lane_order[::-1]
        for lane in self._lane_order:
            round_ = await self._lanes[lane].round()
            self.submit(round_.claims)
            moved += len(round_.claims) + round_.skipped
            if round_.more_soon:
                self._pace.no_later_than(SOON_S)
        if not self._overflowing:
            self._caught_up.set()
        return moved

    async def _release_uncertain_leases(self) -> None:
        """Again and again for a while: the server may come to a commit whose connection is long gone."""
        now = asyncio.get_running_loop().time()
        if not self._uncertain or now < self._release_uncertain_at:
            return
        self._release_uncertain_at = now + RELEASE_UNCERTAIN_EVERY_S
        self._pace.no_later_than(RELEASE_UNCERTAIN_EVERY_S)
        asked = list(self._uncertain)
        bearers = {worker for worker, _ in self._uncertain.values()}
        async with self._pool.acquire() as connection:
            released = await deliveries.release_leases(connection, bearers, asked)
        self._uncertain = {lease: kept for lease, kept in self._uncertain.items() if kept[1] > now}
        if released:
            _logger.warning(
                "%d deliveries were leased by commits that seemed to fail; they are due again", released
            )

    async def _audit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._audit_at:
            return
        # The connection first: what is held may change while one is waited for.
        async with self._pool.acquire() as connection:
            released = await deliveries.release_unknown_leases(
                connection, self._worker_id(), list(self._leases), older_than=self._limits.audit_every
            )
        self._audit_at = now + self._limits.audit_every.total_seconds()
        if released:
            _logger.warning(
                "%d deliveries were leased here without being known; they are due again", released
            )

    # Attempts under way

    async def _send_queued(self) -> None:
        while self._queue:
            claim, message = self._queue.popleft()
            try:
                result = await self._attempts.make(claim, message)
            except asyncio.CancelledError:
                self._abandon(claim)  # the lease ends with the worker
                raise
            except Exception as error:  # noqa: BLE001  a defect: it is reported, and the audit makes it due again
                self._part.failed("make an attempt", error, f"delivery {claim.id}")
                self._abandon(claim)
            else:
                if self._part.any:
                    self._part.succeeded("make an attempt")
                self._answered(result)

    def _answered(self, result: Settled) -> None:
        claim = result.settlement.claim
        self.capacity.release_slot(_slot(claim))
        self._signal_free_slots()
        if claim.endpoint_id in self._overflowing or (self._slots_scarce and self._overflowing):
            self._pace.hint()
        self._settler.put(result)
        if result.settlement.attempt is None:
            return
        if self._health.closed(claim.endpoint_id):
            self.capacity.adjust(claim.endpoint_id, result.manner)
        else:
            self.capacity.start_slowly(claim.endpoint_id)

    def _signal_free_slots(self) -> None:
        if not self._slots_free.is_set() and self.capacity.free >= self.capacity.slots // _FEW:
            self._slots_free.set()

    def _abandon(self, claim: ClaimedDelivery) -> None:
        self.capacity.release_slot(_slot(claim))
        self._finish(claim)

    def _finish(self, claim: ClaimedDelivery) -> None:
        self.capacity.release_memory(size=claim.size)
        self._signal_free_slots()
        self._leases[claim.lease] -= 1
        if not self._leases[claim.lease]:
            del self._leases[claim.lease]

    def _settled(self, result: Settled) -> None:
        self._finish(result.settlement.claim)
        if self._slots_scarce and self._overflowing:
            self._pace.hint()

    async def _drain(self) -> None:
        self._accepting = False
        until = asyncio.get_running_loop().time() + self._limits.drain_for.total_seconds()
        while self._senders and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._senders, timeout=left)
        await self._cut_off()

    async def _cut_off(self) -> None:
        while self._queue:
            self._abandon(self._queue.popleft()[0])
        late = list(self._senders)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _slot(claim: ClaimedDelivery) -> Slot:
    return Slot(claim.tenant_id, claim.endpoint_id, claim.lane)
