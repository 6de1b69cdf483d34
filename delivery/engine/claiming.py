"""Claims the deliveries of one lane that wait in the table: retries, replays, overflow, and those of dead workers.

      find endpoints with waiting deliveries: one index step each, STEPS per round, continued in the next round
                 │ due, not paused, circuit breaker not open, retries not paused
      shares: equal for all, within each endpoint's limits (capacity.py)
                 │
      one transaction:  lock the rate limits ── grant ── claim ── advance the rate limits
                 │
      submit

A round that does not reach the end of the index continues where it stopped. So free slots do not go to the same few ids
each time, and a round costs at most its steps, however many endpoints have deliveries waiting. Deliveries of a disabled
endpoint are skipped in bulk. An endpoint whose rate limit another worker has locked is left for the next round.

A claim reads the events' data. If data cannot be read, the next rounds claim half as many deliveries, until the damaged
one is claimed alone and without its data. Its attempt fails, is recorded, and is retried, because the row may be
repaired.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from delivery.engine import rate_limit
from delivery.engine.capacity import Capacity, Slot
from delivery.engine.overflow import Overflow
from delivery.health.health_tracker import HealthTracker
from schema.connections.database import Connection, Pool
from schema.connections.error_kinds import is_unreadable
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, Lane, RateLimitState, WaitingEndpoint

_logger = logging.getLogger(__name__)
STEPS: Final = 500
SKIPS: Final = 1000
RETRY_EVERY_S: Final = 0.1
"""The shortest interval between two searches for retries of which the first found none."""
FIRST_EVERY_S: Final = 0.02
"""The same for first attempts: if all of them are held, each settled batch would start another search, which costs
milliseconds. The first wait of an idle worker is as long."""
_NO_MAX: Final = 1_000_000
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one search through the lane."""

    claims: Sequence[ClaimedDelivery] = ()
    skipped: int = 0
    more_soon: bool = False
    """More deliveries may be due: slots were missing, a rate limit applied, or endpoints were not searched."""


class Claiming:
    def __init__(
        self,
        pool: Pool,
        lane: Lane,
        capacity: Capacity,
        health: HealthTracker,
        worker_id: Callable[[], int],
        report_uncertain_commit: Callable[[int], None],
    ) -> None:
        """`report_uncertain_commit` gets the lease of a claim that failed: its commit may have succeeded."""
        self._pool = pool
        self._lane = lane
        self._capacity = capacity
        self._health = health
        self._worker_id = worker_id
        self._report_uncertain_commit = report_uncertain_commit
        self._from = _FIRST
        self._not_before = 0.0
        self._max = _NO_MAX
        self.overflow = Overflow()

    async def round(self) -> Round:
        """Claims deliveries; their leases and slots are taken."""
        now = asyncio.get_running_loop().time()
        if now < self._not_before:
            return Round()
        if self._capacity.free_unsized < 1:
            return Round(more_soon=True)
        looked_at = self._health.monotonic()
        waiting = await self._next_waiting()
        skipped = await self._skip([w for w in waiting if w.claimable and not w.enabled])
        claimable = self._not_open([w for w in waiting if w.claimable and w.enabled], looked_at)
        wanted = _at_most(self._max, self._capacity.shares([self._slot(w) for w in claimable]))
        began, all_seen = self._from, self._from == _FIRST and len(waiting) < STEPS
        self._from = self._continue_after(waiting, claimable, wanted)
        if not wanted:
            if not claimable:
                self._pause(now, all_seen=all_seen, skipped=skipped)
            return Round(skipped=skipped, more_soon=bool(claimable) or not all_seen)
        rates = {w.endpoint_id: w.rate_limit for w in claimable if w.rate_limit is not None}
        claims = await self._lease_readable(wanted, rates)
        if claims is None:
            self._from = began
            return Round(skipped=skipped, more_soon=True)
        limited = any(slot.endpoint_id in rates for slot, _ in wanted)
        return Round(claims, skipped, more_soon=limited or not all_seen)

    def _pause(self, now: float, *, all_seen: bool, skipped: int) -> None:
        """Delays the next search after one that found nothing to claim."""
        if self._lane is Lane.FIRST and not skipped:
            self._not_before = now + FIRST_EVERY_S
        elif self._lane is Lane.RETRY and all_seen:
            self._not_before = now + RETRY_EVERY_S

    def _slot(self, waiting: WaitingEndpoint) -> Slot:
        return Slot(waiting.tenant_id, waiting.endpoint_id, self._lane)

    async def _next_waiting(self) -> list[WaitingEndpoint]:
        waiting = await self._search()
        if not waiting and self._from != _FIRST:
            self._from = _FIRST
            waiting = await self._search()
        return waiting

    async def _search(self) -> list[WaitingEndpoint]:
        """Finds the next endpoints with waiting deliveries, and forgets those that have none any more."""
        read = self.overflow.begin_read()
        waiting = await deliveries.endpoints_waiting(self._pool, self._lane, self._from, STEPS)
        last = waiting[-1].endpoint_id if len(waiting) == STEPS else _LAST
        seen = {w.endpoint_id for w in waiting}
        self.overflow.remove(
            (e for e in self.overflow.endpoints if self._from < e <= last and e not in seen), read
        )
        return waiting

    def _continue_after(
        self,
        waiting: Sequence[WaitingEndpoint],
        claimable: Sequence[WaitingEndpoint],
        wanted: Sequence[tuple[Slot, int]],
    ) -> UUID:
        """Returns the last endpoint served if a limit ended the round, else the last endpoint found."""
        last = waiting[-1].endpoint_id if waiting else _FIRST
        if wanted and wanted[-1][0].endpoint_id != claimable[-1].endpoint_id:
            return wanted[-1][0].endpoint_id
        return last if len(waiting) == STEPS else _FIRST

    def _not_open(self, claimable: Sequence[WaitingEndpoint], looked_at: float) -> list[WaitingEndpoint]:
        """Adopts the breakers' states in the database, which other workers change too, and drops endpoints whose breaker was
        just opened here: the database does not know of it yet."""
        for waiting in claimable:
            if self._health.adopt(waiting.endpoint_id, waiting.openings or 0, looked_at):
                self._capacity.start_slowly(waiting.endpoint_id)
        return [waiting for waiting in claimable if not self._health.open(waiting.endpoint_id)]

    async def _skip(self, disabled: Sequence[WaitingEndpoint]) -> int:
        """Skips a bounded number, because the other endpoints wait for it."""
        skipped = 0
        for waiting in disabled:
            if skipped < SKIPS:
                skipped += await deliveries.skip_waiting(self._pool, self._lane, waiting.endpoint_id, SKIPS)
        return skipped

    async def _lease_readable(
        self, wanted: Sequence[tuple[Slot, int]], rates: dict[UUID, int]
    ) -> list[ClaimedDelivery] | None:
        """Returns None if data cannot be read: the next round claims fewer."""
        try:
            claims = await self._lease(wanted, rates)
        except Exception as error:
            if not is_unreadable(error):
                raise
            count = sum(count for _, count in wanted)
            _logger.warning(
                "lane %s: data of one of %d deliveries cannot be read: %r",
                self._lane.name.lower(),
                count,
                error,
            )
            if count > 1:
                self._max = count // 2
                return None
            return await self._lease(wanted, rates, with_data=False)
        self._max = min(_NO_MAX, self._max * 2)
        return claims

    async def _lease(
        self, wanted: Sequence[tuple[Slot, int]], rates: dict[UUID, int], *, with_data: bool = True
    ) -> list[ClaimedDelivery]:
        lease, read = deliveries.new_lease(), self.overflow.begin_read()
        for slot, count in wanted:
            self._capacity.take(slot, count)
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                claims = await self._claim(
                    tx, [(p.endpoint_id, count) for p, count in wanted], rates, lease, with_data=with_data
                )
        except BaseException:
            self._report_uncertain_commit(lease)
            for slot, count in wanted:
                self._capacity.release(slot, count)
            raise
        sizes = [len(claim.data) for claim in claims]
        self._capacity.add_sizes(sum(sizes), max(sizes, default=0))
        got = Counter(claim.endpoint_id for claim in claims)
        for slot, count in wanted:
            self._capacity.release(slot, count - got[slot.endpoint_id])
            if got[slot.endpoint_id] < count and slot.endpoint_id not in rates:
                self.overflow.remove([slot.endpoint_id], read)
        return claims

    async def _claim(
        self,
        tx: Connection,
        wanted: Sequence[tuple[UUID, int]],
        rates: dict[UUID, int],
        lease: int,
        *,
        with_data: bool,
    ) -> list[ClaimedDelivery]:
        limits: dict[UUID, RateLimitState] = {}
        if rates:
            limits = await deliveries.lock_rate_limits(tx, [e for e, _ in wanted if e in rates])
            wanted = _within_rates(wanted, rates, limits)
        claims = await deliveries.claim(tx, self._lane, wanted, lease, self._worker_id(), with_data=with_data)
        if limits and claims:
            await deliveries.advance_rate_limits(tx, _next_at(claims, rates, limits))
        if not with_data:
            for claim in claims:
                await _read_alone(tx, claim)
        return claims


async def _read_alone(tx: Connection, claim: ClaimedDelivery) -> None:
    """Reads the data of a delivery that was claimed without: if another worker has the damaged one at the moment, this is
    a healthy one."""
    try:
        async with tx.transaction():
            claim.data, claim.readable = await deliveries.event_data(tx, claim), True
    except Exception as error:
        if not is_unreadable(error):
            raise


def _at_most(maximum: int, wanted: Sequence[tuple[Slot, int]]) -> list[tuple[Slot, int]]:
    """Cuts the claim to the first `maximum` deliveries."""
    cut: list[tuple[Slot, int]] = []
    for slot, count in wanted:
        if maximum <= 0:
            break
        cut.append((slot, min(count, maximum)))
        maximum -= count
    return cut


def _within_rates(
    wanted: Sequence[tuple[UUID, int]], rates: dict[UUID, int], limits: dict[UUID, RateLimitState]
) -> list[tuple[UUID, int]]:
    granted: list[tuple[UUID, int]] = []
    for endpoint, count in wanted:
        allowed = count
        if endpoint in rates:
            limit = limits.get(endpoint)
            allowed = rate_limit.grant(limit.next_at, limit.now, rates[endpoint], count) if limit else 0
        if allowed:
            granted.append((endpoint, allowed))
    return granted


def _next_at(
    claims: Sequence[ClaimedDelivery], rates: dict[UUID, int], limits: dict[UUID, RateLimitState]
) -> dict[UUID, datetime]:
    taken = Counter(claim.endpoint_id for claim in claims)
    return {
        endpoint: rate_limit.advance(limit.next_at, limit.now, rates[endpoint], taken[endpoint])
        for endpoint, limit in limits.items()
        if taken[endpoint]
    }
