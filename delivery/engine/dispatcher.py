"""Sends the deliveries of one mode: those that fan-out hands over, and those that wait in the table.

      fan-out ──reserve()──► slot ──commit──► submit() ───┐
                 │ no slot, or held                       ├─► attempt ──► settler ──► slot is free
                 ▼                                        │
          waits in the table ◄── retry, dead worker       │
                 └──────── claiming, lane by lane ────────┘

The in-flight limits (capacity.py) bound memory: deliveries without a slot stay in the table. Once an endpoint was refused
a slot, its new deliveries get none until the waiting ones, which are older, are claimed (overflow.py).

A crash can only repeat an attempt, never lose one: a lease is in the database before the request is sent, and a delivery
without a settled result is sent again. If the response to a commit is lost, deliveries may be leased to this worker
without its knowledge. It releases such leases by name for UNCERTAIN_FOR_S; an audit finds the rest.
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
from delivery.engine.settler import PendingSettlement, Settler
from delivery.health.health_tracker import HealthTracker
from schema.connections.database import Pool
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, Lane
from schema.failures import PartFailures, carrying_on, current_part
from schema.polling import PollTimer, through_outages

_logger = logging.getLogger(__name__)
_FEW = 8  # an eighth of the slots
_WAIT_FOR_SLOTS_S = 0.02
_MANY_REFUSED = 250
_CATCH_UP_S = 0.1
UNCERTAIN_FOR_S = 30.0
RELEASE_UNCERTAIN_EVERY_S = 1.0
AUDIT_RETRY_S = 1.0  # after a failure
SENDERS_PER_ROUND = 64
SOON_S = 0.05
"""How soon a round follows one that a rate limit or its length cut short; well within rate_limit.BURST."""


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    capacity: CapacityLimits = field(default_factory=CapacityLimits)
    audit_every: timedelta = timedelta(seconds=30)
    drain_for: timedelta = timedelta(seconds=18)
    """How long a stop waits for the attempts under way."""


class Dispatcher:
    def __init__(
        self,
        pool: Pool,
        worker_id: Callable[[], int],
        attempts: Attempts,
        settler: Settler,
        health: HealthTracker,
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
        self._overflow = self._lanes[Lane.FIRST].overflow
        self._overflow_uncommitted: set[UUID] = set()
        self._lane_order = (Lane.RETRY, Lane.FIRST)
        self._leases: Counter[int] = Counter()
        self._uncertain: dict[int, tuple[int, float]] = {}
        self._release_uncertain_at = 0.0
        self._audit_at = 0.0
        self._queue: deque[tuple[ClaimedDelivery, Message]] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._poll_timer = PollTimer(first=0.02, most=0.5)
        self._accepting = True
        self._slots_scarce = False
        """A worker or tenant limit refused a slot: any response may free the one that is needed."""
        self._refused = 0
        """Deliveries without a slot since fan-out last waited for slots."""
        self._slots_free = asyncio.Event()
        self._caught_up = asyncio.Event()
        # Senders start in the task of the caller of submit(), so current_part() would name the wrong part.
        self._part = PartFailures("")
        settler.on_settled = self._on_settled

    @property
    def in_flight(self) -> int:
        return self.capacity.in_flight

    # Slots for fan-out

    def reserve(self, tenant_id: UUID, endpoint_id: UUID, size: int) -> bool:
        if not self._accepting or not self._health.closed(endpoint_id):
            return False
        if endpoint_id not in self._overflow:
            if self.capacity.reserve(Slot(tenant_id, endpoint_id), size):
                return True
            self._overflow.add([endpoint_id])
            self._slots_scarce |= self.capacity.allowed(endpoint_id) > self.capacity.taken(endpoint_id)
        self._overflow_uncommitted.add(endpoint_id)
        self._refused += 1
        return False

    async def _catch_up(self) -> None:
        """Waits briefly for waiting deliveries to be claimed, so that the next ones get slots.

        A log that is far behind fills the table faster than claims empty it, and then each delivery is written, claimed
        and read again. The wait is bounded, because one slow endpoint may have most of the deliveries."""
        self._caught_up.clear()
        self._poll_timer.hint()
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                if self._overflow:
                    await self._caught_up.wait()
        except TimeoutError:
            pass

    async def wait_for_slots(self) -> int:
        """Waits briefly until an eighth of the slots is free, and returns how many are free.

        Returns 0 if fewer are: the others may be held by hanging endpoints, and fan-out must not be as slow as these."""
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
        """Remembers a lease whose commit failed: it may be in the database although nothing is held under it here."""
        self._uncertain[lease] = (self._worker_id(), asyncio.get_running_loop().time() + UNCERTAIN_FOR_S)
        self._poll_timer.hint()

    def submit(self, claims: Sequence[ClaimedDelivery], *, others_wait: bool = False) -> None:
        made = messages(claims)
        for claim in claims:
            self._leases[claim.lease] += 1
            claim.drop_data()  # the message body has it now
            self._queue.append((claim, made[claim.event_id]))
        self._send_out()
        if others_wait:
            self._overflow.add(self._overflow_uncommitted)
            self._overflow_uncommitted.clear()
            self._poll_timer.hint()

    def _send_out(self) -> None:
        """Starts senders, some per iteration of the event loop, until the queue is empty. A sender with a quick response
        takes the next delivery, so that quick endpoints need few senders."""
        if not self._queue:
            return
        loop = asyncio.get_running_loop()
        for _ in range(min(len(self._queue), SENDERS_PER_ROUND)):
            sender = loop.create_task(self._send_queued())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        loop.call_soon(self._send_out)

    # Deliveries that wait in the table

    async def run(self, stop: asyncio.Event) -> None:
        """Claims and sends until `stop`. Attempts under way outlive an error here: the supervisor runs it again."""
        self._accepting = True
        self._part = self._attempts.part = current_part()
        try:
            while not stop.is_set():
                found = await through_outages(stop, "claim deliveries", self.claim)
                await self._poll_timer.wait(found=bool(found))
            await self._drain()
        except asyncio.CancelledError:
            await self._cut_off()
            raise

    async def claim(self) -> int:
        """Claims and submits one round of each lane, and returns how many deliveries. The lanes take turns at being first,
        because the first one may use up an endpoint's slots or its rate limit."""
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
                self._poll_timer.no_later_than(SOON_S)
        if not self._overflow:
            self._caught_up.set()
        return moved

    async def _release_uncertain_leases(self) -> None:
        """Releases them once per RELEASE_UNCERTAIN_EVERY_S: the server may execute a commit after its connection ended."""
        now = asyncio.get_running_loop().time()
        if not self._uncertain or now < self._release_uncertain_at:
            return
        self._release_uncertain_at = now + RELEASE_UNCERTAIN_EVERY_S
        self._poll_timer.no_later_than(RELEASE_UNCERTAIN_EVERY_S)
        leases = list(self._uncertain)
        workers = {worker for worker, _ in self._uncertain.values()}
        released = 0
        with carrying_on("release uncertain leases"):
            async with self._pool.acquire() as connection:
                released = await deliveries.release_leases(connection, workers, leases)
            self._uncertain = {lease: kept for lease, kept in self._uncertain.items() if kept[1] > now}
        if released:
            _logger.warning(
                "released %d deliveries: the commit that leased them had been reported as failed", released
            )

    async def _audit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._audit_at:
            return
        self._audit_at = now + AUDIT_RETRY_S
        released = 0
        with carrying_on("audit leases"):
            # The connection first: the leases held may change during the wait for one.
            async with self._pool.acquire() as connection:
                released = await deliveries.release_unknown_leases(
                    connection, self._worker_id(), list(self._leases), older_than=self._limits.audit_every
                )
            self._audit_at = now + self._limits.audit_every.total_seconds()
        if released:
            _logger.warning("released %d deliveries leased to this worker without its knowledge", released)

    # Attempts under way

    async def _send_queued(self) -> None:
        while self._queue:
            claim, message = self._queue.popleft()
            try:
                result = await self._attempts.make(claim, message)
            except asyncio.CancelledError:
                self._abandon(claim)  # the lease is released when the worker leaves
                raise
            except Exception as error:  # noqa: BLE001  a defect: it is reported, and the audit releases the lease
                self._part.failed("make an attempt", error, f"delivery {claim.id}")
                self._abandon(claim)
            else:
                if self._part.any:
                    self._part.succeeded("make an attempt")
                self._finish_attempt(result)

    def _finish_attempt(self, result: PendingSettlement) -> None:
        claim = result.settlement.claim
        self.capacity.release_slot(_slot(claim))
        self._signal_free_slots()
        if claim.endpoint_id in self._overflow or (self._slots_scarce and self._overflow):
            self._poll_timer.hint()
        self._settler.put(result)
        if result.settlement.attempt is None:
            return
        if self._health.closed(claim.endpoint_id):
            self.capacity.adjust(claim.endpoint_id, result.response_time)
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

    def _on_settled(self, result: PendingSettlement) -> None:
        self._finish(result.settlement.claim)
        if self._slots_scarce and self._overflow:
            self._poll_timer.hint()

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
