"""Sends one mode's deliveries: those that fan-out hands over, and those that wait in the table.

      fan-out ──reserve()──► place ──commit──► submit() ──┐
                 │ no room                                ├─► attempt ──► settler ──► place is free
                 ▼                                        │
          waits in the table ◄── retry, dead worker       │
                 └──────────────── claim() ───────────────┘

Memory is bounded by the places (Capacity): what has none stays in the table. An endpoint whose deliveries have
begun to wait gets no place for new ones until the waiting ones, which are older, have been claimed. Claims go
round the endpoints that have work, with equal shares; a round that runs out of places goes on where it stopped.

The worst a crash can do is repeat: a lease is in the database before its bytes are on the wire, and the
result of an attempt that nobody settled is not known to anybody. A commit whose answer was lost may leave
deliveries leased to this worker without its knowledge; an audit finds them and makes them due again.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from delivery.capacity import Capacity
from delivery.outbound import Outbound, bodies
from delivery.retry_policy import RetryPolicy
from delivery.sending import AttemptResult, Sender
from delivery.settler import Settled, Settler
from delivery.verdict import judge
from schema import deliveries
from schema.database import Pool
from schema.deliveries import Attempt, ClaimedDelivery, Settlement, Verdict
from schema.ids import new_id
from schema.polling import Pace, through_outages

_logger = logging.getLogger(__name__)
_ENDPOINTS_PER_CLAIM = 1000
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)
_UNSENDABLE_AGAIN_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    in_flight: int = 1000
    in_flight_per_endpoint: int = 100
    lease_for: timedelta = timedelta(minutes=10)
    """A backstop far beyond any attempt: leases normally end by settling, or with their worker."""
    audit_every: timedelta = timedelta(seconds=30)
    drain_for: timedelta = timedelta(seconds=18)
    """How long a stop waits for attempts under way."""


class Dispatcher:
    def __init__(
        self,
        pool: Pool,
        worker_id: Callable[[], int],
        outbound: Outbound,
        sender: Sender,
        settler: Settler,
        policy: RetryPolicy,
        limits: DispatchLimits,
    ) -> None:
        self._pool = pool
        self._worker_id = worker_id
        self._outbound = outbound
        self._sender = sender
        self._settler = settler
        self._policy = policy
        self._limits = limits
        self._capacity = Capacity(limits.in_flight, limits.in_flight_per_endpoint)
        self._overflowing: set[UUID] = set()
        self._held: Counter[int] = Counter()
        self._audit_at = 0.0
        self._attempts: set[asyncio.Task[None]] = set()
        self._round_from = _FIRST
        self._pace = Pace(first=0.02, most=0.5)
        self._open = True
        settler.on_settled = self._settled

    @property
    def in_flight(self) -> int:
        return self._capacity.in_flight

    # Room, for fan-out

    def reserve(self, endpoint_id: UUID) -> bool:
        if not self._open or endpoint_id in self._overflowing:
            return False
        if self._capacity.room(endpoint_id) < 1:
            self._overflowing.add(endpoint_id)
            return False
        self._capacity.take(endpoint_id)
        return True

    def give_back(self, endpoint_id: UUID) -> None:
        self._capacity.give_back(endpoint_id)

    def submit(self, claims: Sequence[ClaimedDelivery]) -> None:
        made = bodies(claims)
        for claim in claims:
            self._held[claim.lease] += 1
            task = asyncio.create_task(self._attempt(claim, made[claim.event_id]))
            self._attempts.add(task)
            task.add_done_callback(partial(self._ended, claim))

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
            await self._cut_off(self._attempts)
            raise

    async def claim(self) -> int:
        """Claims and submits one round of what is due; returns how many deliveries."""
        await self._audit()
        if self._capacity.free < 1:
            return 0
        waiting = await self._waiting()
        wanted = self._capacity.shares(waiting)
        self._round_from = self._goes_on_after(waiting, wanted)
        if not wanted:
            return 0
        claims = await self._lease(wanted)
        got = Counter(claim.endpoint_id for claim in claims)
        for endpoint_id, count in wanted:
            self._capacity.give_back(endpoint_id, count - got[endpoint_id])
            if got[endpoint_id] < count:
                self._overflowing.discard(endpoint_id)
        self.submit(claims)
        return len(claims)

    async def _waiting(self) -> list[UUID]:
        waiting = await deliveries.endpoints_waiting(self._pool, self._round_from, _ENDPOINTS_PER_CLAIM)
        if not waiting and self._round_from != _FIRST:
            self._round_from = _FIRST
            waiting = await deliveries.endpoints_waiting(self._pool, _FIRST, _ENDPOINTS_PER_CLAIM)
        last = waiting[-1] if len(waiting) == _ENDPOINTS_PER_CLAIM else _LAST
        self._overflowing -= {
            endpoint_id for endpoint_id in self._overflowing if self._round_from < endpoint_id <= last
        }.difference(waiting)
        return waiting

    def _goes_on_after(self, waiting: Sequence[UUID], wanted: Sequence[tuple[UUID, int]]) -> UUID:
        """Where the next round begins: without it the places would go to the same few ids each time."""
        if wanted and sum(count for _, count in wanted) == self._capacity.free:
            return wanted[-1][0]
        return waiting[-1] if len(waiting) == _ENDPOINTS_PER_CLAIM else _FIRST

    async def _lease(self, wanted: Sequence[tuple[UUID, int]]) -> list[ClaimedDelivery]:
        lease = deliveries.new_lease()
        for endpoint_id, count in wanted:
            self._capacity.take(endpoint_id, count)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                return await deliveries.claim(tx, wanted, lease, self._worker_id(), self._limits.lease_for)
        except BaseException:
            for endpoint_id, count in wanted:
                self._capacity.give_back(endpoint_id, count)
            raise

    async def _audit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._audit_at:
            return
        limits = self._limits
        released = await deliveries.release_unknown_leases(
            self._pool, self._worker_id(), list(self._held), limits.lease_for, limits.audit_every
        )
        self._audit_at = now + limits.audit_every.total_seconds()
        if released:
            _logger.warning(
                "%d deliveries were leased here without being known; they are due again", released
            )

    # One attempt

    async def _attempt(self, claim: ClaimedDelivery, body: bytes) -> None:
        try:
            self._settler.put(await self._send(claim, body))
        except Exception:
            _logger.exception("delivery %s could not be sent; it is tried again in a minute", claim.id)
            again = datetime.now(UTC) + _UNSENDABLE_AGAIN_AFTER
            self._settler.put(Settled(Settlement(claim, Verdict.RETRY, again)))

    async def _send(self, claim: ClaimedDelivery, body: bytes) -> Settled:
        if claim.endpoint is None or not claim.endpoint.enabled:
            return Settled(Settlement(claim, Verdict.SKIPPED))
        started_at = datetime.now(UTC)
        request = self._outbound.request(claim, body, int(started_at.timestamp()))
        result = await self._sender.send(request)
        judgement = judge(
            result,
            tries=claim.tries,
            replay=claim.replay,
            policy=self._policy,
            now=datetime.now(UTC),
            random=random.random(),  # noqa: S311 - jitter, not a secret
        )
        attempt = _record(result, started_at)
        return Settled(
            Settlement(claim, judgement.verdict, judgement.retry_at, attempt), judgement.disable_endpoint
        )

    def _ended(self, claim: ClaimedDelivery, attempt: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        if attempt.cancelled():
            self._let_go(claim)  # the lease ends with the worker

    def _let_go(self, claim: ClaimedDelivery) -> None:
        self._capacity.give_back(claim.endpoint_id)
        self._held[claim.lease] -= 1
        if not self._held[claim.lease]:
            del self._held[claim.lease]

    def _settled(self, claim: ClaimedDelivery) -> None:
        self._let_go(claim)
        if self._overflowing:
            self._pace.hint()

    async def _drain(self) -> None:
        self._open = False
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=self._limits.drain_for.total_seconds())
            await self._cut_off(late)

    async def _cut_off(self, attempts: Collection[asyncio.Task[None]]) -> None:
        late = list(attempts)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _record(result: AttemptResult, started_at: datetime) -> Attempt:
    took = result.timings
    return Attempt(
        id=new_id(),
        started_at=started_at,
        outcome=result.outcome.value,
        status_code=result.status,
        error=result.error,
        response_body=result.response_body,
        address=result.address,
        dns_ms=took.dns,
        connect_ms=took.connect,
        tls_ms=took.tls,
        first_byte_ms=took.first_byte,
        total_ms=took.total,
    )
