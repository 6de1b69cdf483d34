"""One lane's deliveries that wait in the table: retries and replays, overflow, what dead workers held.

      which endpoints have some waiting? ── one step along the index for each, STEPS a round, round and round
                 │ due, not paused, breaker not open, retries not paused
      shares: alike for all, no more than each one's room (capacity.py)
                 │
      one transaction:  lock the pacing of those with a rate limit ── grant ── claim ── note what was taken
                 │
      submit

A round that does not come to the end of the index goes on where it stopped, so that the places that become free do
not go to the same few ids each time, and no round costs more than its steps, however many endpoints wait. What waits
for a disabled endpoint is skipped in bulk. An endpoint that another worker is pacing is passed by.

A claim reads the events' data. When one of them cannot be read, the next rounds claim half as many, until it is claimed
alone, and without its data: its attempt fails, is recorded, and is retried by schedule, for the row may be repaired.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from delivery.engine import rate_limit as pacing
from delivery.engine.capacity import Capacity, Slot
from delivery.health.health_book import HealthBook
from schema.connections.database import Connection, Pool
from schema.connections.error_kinds import is_unreadable
from schema.deliveries import deliveries
from schema.deliveries.deliveries import ClaimedDelivery, Lane, RateLimitState, WaitingEndpoint

_logger = logging.getLogger(__name__)
STEPS: Final = 500
SKIPS: Final = 1000
AGAIN_EVERY_S: Final = 0.1  # an empty look for retries is not repeated sooner, whatever else is going on
FIRST_EVERY_S: Final = 0.02
"""Nor one for first attempts: where all that waits is held, each settled batch would hint at another look, which costs
milliseconds. An idle worker's first wait is as long."""
_ALL: Final = 1_000_000
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Round:
    """What one look at the lane came to."""

    claims: Sequence[ClaimedDelivery] = ()
    skipped: int = 0
    more_soon: bool = False
    """More may wait than was taken: there were no places, or a rate in the way, or endpoints that have not been
    looked at."""


class Claiming:
    def __init__(
        self,
        pool: Pool,
        lane: Lane,
        capacity: Capacity,
        health: HealthBook,
        worker_id: Callable[[], int],
        report_uncertain_commit: Callable[[int], None],
    ) -> None:
        """`doubt` is told of a lease whose claim failed, and may have been committed all the same."""
        self._pool = pool
        self._lane = lane
        self._capacity = capacity
        self._health = health
        self._worker_id = worker_id
        self._report_uncertain_commit = report_uncertain_commit
        self._from = _FIRST
        self._not_before = 0.0
        self._most = _ALL
        self.overflowing: set[UUID] = set()
        """Endpoints with something waiting, as far as known here: what is newer must not overtake it."""

    async def round(self) -> Round:
        """Leases what it returns, and has taken the places for it."""
        now = asyncio.get_running_loop().time()
        if now < self._not_before:
            return Round()
        if self._capacity.free_unsized < 1:
            return Round(more_soon=True)
        looked_at = self._health.monotonic()
        waiting = await self._look()
        skipped = await self._skip([w for w in waiting if w.claimable and not w.enabled])
        claimable = self._not_open([w for w in waiting if w.claimable and w.enabled], looked_at)
        wanted = _at_most(self._most, self._capacity.shares([self._slot(w) for w in claimable]))
        all_seen = self._from == _FIRST and len(waiting) < STEPS
        self._from = self._goes_on_after(waiting, claimable, wanted)
        if not wanted:
            if not claimable:
                self._pause(now, all_seen=all_seen, skipped=skipped)
            return Round(skipped=skipped, more_soon=bool(claimable) or not all_seen)
        rates = {w.endpoint_id: w.rate_limit for w in claimable if w.rate_limit is not None}
        claims = await self._lease_readable(wanted, rates)
        if claims is None:
            return Round(skipped=skipped, more_soon=True)
        paced = any(slot.endpoint_id in rates for slot, _ in wanted)
        return Round(claims, skipped, more_soon=paced or not all_seen)

    def _pause(self, now: float, *, all_seen: bool, skipped: int) -> None:
        """After a round that found nothing to claim."""
        if self._lane is Lane.FIRST and not skipped:
            self._not_before = now + FIRST_EVERY_S
        elif self._lane is Lane.RETRY and all_seen:
            self._not_before = now + AGAIN_EVERY_S

    def _slot(self, waiting: WaitingEndpoint) -> Slot:
        return Slot(waiting.tenant_id, waiting.endpoint_id, self._lane)

    async def _look(self) -> list[WaitingEndpoint]:
        waiting = await deliveries.endpoints_waiting(self._pool, self._lane, self._from, STEPS)
        if not waiting and self._from != _FIRST:
            self._from = _FIRST
            waiting = await deliveries.endpoints_waiting(self._pool, self._lane, _FIRST, STEPS)
        last = waiting[-1].endpoint_id if len(waiting) == STEPS else _LAST
        seen = {w.endpoint_id for w in waiting}
        self.overflowing -= {e for e in self.overflowing if self._from < e <= last and e not in seen}
        return waiting

    def _goes_on_after(
        self,
        waiting: Sequence[WaitingEndpoint],
        claimable: Sequence[WaitingEndpoint],
        wanted: Sequence[tuple[Slot, int]],
    ) -> UUID:
        """After whom this round served last, whatever cap it was that ended it; after whom it saw last when it could
        serve all, or none."""
        last = waiting[-1].endpoint_id if waiting else _FIRST
        if wanted and wanted[-1][0].endpoint_id != claimable[-1].endpoint_id:
            return wanted[-1][0].endpoint_id
        return last if len(waiting) == STEPS else _FIRST

    def _not_open(self, claimable: Sequence[WaitingEndpoint], looked_at: float) -> list[WaitingEndpoint]:
        """Adopts what the database says of the breakers, which other workers open and close as well; and leaves out those
        that were opened here a moment ago, which it does not know yet."""
        for waiting in claimable:
            if self._health.adopt(waiting.endpoint_id, waiting.openings or 0, looked_at):
                self._capacity.start_slowly(waiting.endpoint_id)
        return [waiting for waiting in claimable if not self._health.open(waiting.endpoint_id)]

    async def _skip(self, disabled: Sequence[WaitingEndpoint]) -> int:
        """A bounded number, for the others wait meanwhile."""
        skipped = 0
        for waiting in disabled:
            if skipped < SKIPS:
                skipped += await deliveries.skip_waiting(self._pool, self._lane, waiting.endpoint_id, SKIPS)
        return skipped

    async def _lease_readable(
        self, wanted: Sequence[tuple[Slot, int]], rates: dict[UUID, int]
    ) -> list[ClaimedDelivery] | None:
        """None when fewer are to be claimed, because one of them cannot be read."""
        try:
            claims = await self._lease(wanted, rates)
        except Exception as error:
            if not is_unreadable(error):
                raise
            count = sum(count for _, count in wanted)
            _logger.warning("%d %s deliveries cannot be read: %r", count, self._lane.name.lower(), error)
            if count > 1:
                self._most = count // 2
                return None
            return await self._lease(wanted, rates, with_data=False)
        self._most = min(_ALL, self._most * 2)
        return claims

    async def _lease(
        self, wanted: Sequence[tuple[Slot, int]], rates: dict[UUID, int], *, with_data: bool = True
    ) -> list[ClaimedDelivery]:
        lease = deliveries.new_lease()
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
                self.overflowing.discard(slot.endpoint_id)
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
        paces: dict[UUID, RateLimitState] = {}
        if rates:
            paces = await deliveries.lock_rate_limits(tx, [e for e, _ in wanted if e in rates])
            wanted = _within_rates(wanted, rates, paces)
        claims = await deliveries.claim(tx, self._lane, wanted, lease, self._worker_id(), with_data=with_data)
        if paces and claims:
            await deliveries.advance_rate_limits(tx, _next_at(claims, rates, paces))
        return claims


def _at_most(most: int, wanted: Sequence[tuple[Slot, int]]) -> list[tuple[Slot, int]]:
    """The first of them, as many deliveries as that."""
    cut: list[tuple[Slot, int]] = []
    for slot, count in wanted:
        if most <= 0:
            break
        cut.append((slot, min(count, most)))
        most -= count
    return cut


def _within_rates(
    wanted: Sequence[tuple[UUID, int]], rates: dict[UUID, int], paces: dict[UUID, RateLimitState]
) -> list[tuple[UUID, int]]:
    granted: list[tuple[UUID, int]] = []
    for endpoint, count in wanted:
        allowed = count
        if endpoint in rates:
            pace = paces.get(endpoint)
            allowed = pacing.grant(pace.next_at, pace.now, rates[endpoint], count) if pace else 0
        if allowed:
            granted.append((endpoint, allowed))
    return granted


def _next_at(
    claims: Sequence[ClaimedDelivery], rates: dict[UUID, int], paces: dict[UUID, RateLimitState]
) -> dict[UUID, datetime]:
    taken = Counter(claim.endpoint_id for claim in claims)
    return {
        endpoint: pacing.after(pace.next_at, pace.now, rates[endpoint], taken[endpoint])
        for endpoint, pace in paces.items()
        if taken[endpoint]
    }
