"""Writes results in batches: while one batch commits, the next one gathers, so there is no round trip per delivery.

      put ──► gathered ──► the first ones, in one transaction ──► committed ──► on_settled, and the slot is free
                 ▲             │ transient error: retried with backoff, for as long as it takes
                 │             │ timeout:         retried immediately with half of them
                 │             │ data fault:      retried with half of them; a single result is stored without details
                 └─────────────┘ no result leaves before it is written

A transaction settles deliveries, records attempts and updates endpoint health. An endpoint's circuit breaker gets each
result once, when it arrives, however often its batch is retried. After a 410 a separate transaction disables the endpoint
and records the event; if it fails, it is retried later.

No error of the database drops a result: its delivery would be sent again. Memory is bounded, because each result holds
a slot (capacity.py) until it is written, so no attempt starts when all slots are taken. Only after a stop and
`last_tries_s` more are the remaining results left to the workers that take over the leases.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from delivery.engine.attempt_tally import Tally
from delivery.engine.capacity import ResponseTime
from delivery.health.health_tracker import HealthTracker
from schema.connections.database import Pool
from schema.connections.error_kinds import is_data_fault, is_query_canceled
from schema.deliveries import deliveries, endpoint_health
from schema.deliveries.deliveries import ClaimedDelivery, Settlement
from schema.event_log import events
from schema.failures import failed, succeeded
from schema.ids import ENDPOINT, format_id
from schema.polling import through_outages

_BATCH = 1000
GONE = "The receiver answered 410 Gone."
LAST_TRIES_S = 3.0
DISABLE_RETRY_S = 5.0
_WRITE: Final = "write results"
_STORE_DETAILS: Final = "store a result's details"
_DISABLE: Final = "disable an endpoint that answered 410"


@dataclass(slots=True)
class PendingSettlement:
    settlement: Settlement
    disable_endpoint: bool = False
    response_time: ResponseTime = ResponseTime.QUICK
    local_fault: bool = False
    """The error was on this worker's side and does not count for the endpoint's health."""


class _Smaller(Exception):
    """A smaller batch may be written."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class _Unstorable(Exception):
    """A single result cannot be written because of its data."""

    def __init__(self, result: PendingSettlement) -> None:
        super().__init__()
        self.result = result


class Settler:
    def __init__(self, pool: Pool, health: HealthTracker, last_tries_s: float = LAST_TRIES_S) -> None:
        """`last_tries_s`: how long after a stop a write that fails is retried."""
        self._pool = pool
        self._health = health
        self._last_tries_s = last_tries_s
        self._gathered: list[PendingSettlement] = []
        self._tried = 0  # how many of the first results an earlier transaction may have committed
        self._size = _BATCH
        self._gone: dict[UUID, ClaimedDelivery] = {}
        self._disable_not_before = 0.0
        self._arrived = asyncio.Event()
        self.on_settled: Callable[[PendingSettlement], None] = lambda _result: None
        self.tally = Tally()
        self.settled = 0
        self.fenced_off = 0

    def put(self, result: PendingSettlement) -> None:
        """Takes a result to write."""
        if not result.local_fault:
            self._health.observe(result.settlement)
        self._gathered.append(result)
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """Results that are not written yet."""
        return len(self._gathered)

    async def run(self, stop: asyncio.Event) -> None:
        """Writes until `stop` and until no result is left, or the database stays away for `last_tries_s`."""
        stopping = asyncio.ensure_future(stop.wait())
        give_up = asyncio.Event()
        giving_up = asyncio.ensure_future(self._give_up(stop, give_up))
        try:
            while self._gathered or not stop.is_set():
                if self._gathered:
                    await self._settle_some(give_up)
                else:
                    self._arrived.clear()
                    arriving = asyncio.ensure_future(self._arrived.wait())
                    again_s = DISABLE_RETRY_S if self._gone else None
                    try:
                        await asyncio.wait(
                            (arriving, stopping), timeout=again_s, return_when=asyncio.FIRST_COMPLETED
                        )
                    finally:
                        arriving.cancel()
                if self._gone:
                    await self._disable_gone()
        finally:
            stopping.cancel()
            giving_up.cancel()

    async def _give_up(self, stop: asyncio.Event, give_up: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(self._last_tries_s)
        give_up.set()

    async def _settle_some(self, give_up: asyncio.Event) -> None:
        """Writes the first gathered results. After an error they stay gathered."""
        try:
            written = await through_outages(give_up, _WRITE, self._write_first)
        except _Smaller as smaller:
            self._size = max(1, smaller.size // 2)
            failed(_WRITE, smaller.__cause__ or smaller)
            return
        except _Unstorable as alone:
            written = await self._settle_without_details(give_up, alone.result, alone.__cause__ or alone)
        if written is None:  # after a stop, this was the last try
            self._done(len(self._gathered))
        else:
            self._size = min(_BATCH, self._size * 2)
            self._done(written)

    def _done(self, count: int) -> None:
        done, self._gathered = self._gathered[:count], self._gathered[count:]
        self._tried = max(0, self._tried - count)
        for result in done:
            self.on_settled(result)

    async def _write_first(self) -> int:
        batch, again = self._gathered[: min(self._size, _BATCH)], self._tried > 0
        self._tried = max(self._tried, len(batch))
        try:
            await self._write(batch, again=again)
        except Exception as error:
            if len(batch) > 1 and (is_data_fault(error) or is_query_canceled(error)):
                raise _Smaller(len(batch)) from error
            if is_data_fault(error):
                raise _Unstorable(batch[0]) from error
            raise
        succeeded(_STORE_DETAILS)
        return len(batch)

    async def _settle_without_details(
        self, give_up: asyncio.Event, result: PendingSettlement, error: BaseException
    ) -> int | None:
        claim, attempt = result.settlement.claim, result.settlement.attempt
        failed(_STORE_DETAILS, error, f"delivery {claim.id}", harmless=True)
        if attempt is None:
            return 1
        error_text = f"{attempt.outcome}; the details could not be stored"
        bare = replace(attempt, error=error_text, response_body=b"", address=None)
        stripped = replace(result, settlement=replace(result.settlement, attempt=bare))

        async def write() -> int:
            await self._write([stripped], again=True)
            return 1

        try:
            return await through_outages(give_up, _WRITE, write)
        except Exception as failure:
            if not is_data_fault(failure):
                raise
            failed(_WRITE, failure, f"delivery {claim.id}: its result is lost, so it is sent again")
            return 1

    async def _write(self, batch: Sequence[PendingSettlement], *, again: bool) -> None:
        """Writes a batch. `again`: an earlier try may have been committed; its results must count once."""
        settlements = [result.settlement for result in batch]
        counted: dict[UUID, bool] = {}
        async with self._pool.acquire() as tx, tx.transaction():
            settled = await deliveries.settle(tx, settlements, again=again)
            if again:
                counted = await endpoint_health.already_counted(tx, settlements)
                settled |= {s.claim.id for s in settlements if s.attempt and counted.get(s.attempt.id)}
            notes = self._health.notes([r.settlement for r in batch if not r.local_fault], counted)
            if notes:
                await endpoint_health.note_health(tx, notes)
        self._health.written(notes)
        self.tally.add(settlements)
        self.settled += len(settled)
        self.fenced_off += len(batch) - len(settled)
        claims = [result.settlement.claim for result in batch if result.disable_endpoint]
        gone = {claim.endpoint_id: claim for claim in claims if claim.id in settled}
        new = {endpoint: claim for endpoint, claim in gone.items() if endpoint not in self._gone}
        if new:
            self._disable_not_before = 0.0
        self._gone = new | self._gone | gone

    async def _disable_gone(self) -> None:
        """Disables the endpoints that answered 410, new ones first.

        Ends at the first locked row, because results wait meanwhile; that endpoint is last after DISABLE_RETRY_S."""
        if asyncio.get_running_loop().time() < self._disable_not_before:
            return
        for claim in list(self._gone.values()):
            disabled = await self._disable(claim)
            del self._gone[claim.endpoint_id]
            if not disabled:
                self._gone[claim.endpoint_id] = claim
                self._disable_not_before = asyncio.get_running_loop().time() + DISABLE_RETRY_S
                return
        succeeded(_DISABLE)

    async def _disable(self, claim: ClaimedDelivery) -> bool:
        """Returns False if it must be retried. Not in the batch's transaction, which must not wait for a locked row."""
        assert claim.endpoint is not None
        data = {"endpointId": format_id(ENDPOINT, claim.endpoint_id), "reason": "gone"}
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                await endpoint_health.limit_lock_wait(tx)
                disabled = await endpoint_health.disable(tx, claim.endpoint_id, GONE, claim.endpoint.url)
                if disabled:
                    await events.record(tx, claim.tenant_id, "webhook_endpoint_disabled", data)
            if disabled:
                self._health.forget(claim.endpoint_id)
        except Exception as error:  # noqa: BLE001  any error is reported, and results are still written
            failed(_DISABLE, error, f"endpoint {data['endpointId']}", harmless=True)
            return is_data_fault(error)  # a retry would fail too
        return True
