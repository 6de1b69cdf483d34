"""Writes results in batches: while one batch commits the next one gathers, so there is no round trip per delivery.

A batch is one transaction: deliveries settled, attempts appended, health noted. Endpoints' breakers hear of a result
when it arrives, once, however often its batch is tried. When a receiver said 410, another transaction disables the
endpoint, together with the event that tells so. A batch that the database cannot take for its own sake is halved until
the one result stands alone, which is then stored without what the receiver sent.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from delivery.capacity import Manner
from delivery.health_book import HealthBook
from delivery.tally import Tally
from schema import deliveries, endpoint_health, events
from schema.database import Pool, is_of_the_batch
from schema.deliveries import ClaimedDelivery, Settlement
from schema.ids import ENDPOINT, format_id
from schema.polling import through_outages

_logger = logging.getLogger(__name__)
_BATCH = 1000
GONE = "The receiver answered 410 Gone."
LAST_TRIES_S = 3.0


@dataclass(slots=True)
class Settled:
    settlement: Settlement
    disable_endpoint: bool = False
    manner: Manner = Manner.QUICK
    ours: bool = False
    """The fault was on our side, which says nothing of the endpoint's health."""


class _BatchFailed(Exception):
    """Not of the moment: waiting will not help."""


class Settler:
    def __init__(self, pool: Pool, health: HealthBook, last_tries_s: float = LAST_TRIES_S) -> None:
        """`last_tries_s`: for how long after a stop a database in trouble is still tried."""
        self._pool = pool
        self._health = health
        self._last_tries_s = last_tries_s
        self._gathered: list[Settled] = []
        self._arrived = asyncio.Event()
        self.on_settled: Callable[[Settled], None] = lambda _result: None
        self.tally = Tally()
        self.settled = 0
        self.fenced_off = 0

    def put(self, result: Settled) -> None:
        if not result.ours:
            self._health.observe(result.settlement)
        self._gathered.append(result)
        self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Ends once it is stopped and nothing is left to write, or the database cannot be had for the rest."""
        stopping = asyncio.ensure_future(stop.wait())
        give_up = asyncio.Event()
        giving_up = asyncio.ensure_future(self._give_up(stop, give_up))
        try:
            while self._gathered or not stop.is_set():
                batch, self._gathered = self._gathered[:_BATCH], self._gathered[_BATCH:]
                if batch:
                    await self._settle(give_up, batch)
                else:
                    self._arrived.clear()
                    arriving = asyncio.ensure_future(self._arrived.wait())
                    await asyncio.wait((arriving, stopping), return_when=asyncio.FIRST_COMPLETED)
                    arriving.cancel()
        finally:
            stopping.cancel()
            giving_up.cancel()

    async def _give_up(self, stop: asyncio.Event, give_up: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(self._last_tries_s)
        give_up.set()

    async def _settle(
        self, give_up: asyncio.Event, batch: Sequence[Settled], *, tried_before: bool = False
    ) -> None:
        async def write() -> None:
            nonlocal tried_before
            again, tried_before = tried_before, True
            await self._write_whole(batch, again=again)

        try:
            await through_outages(give_up, "settler", write)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the rest of the batch
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._settle(give_up, batch[:middle], tried_before=True)
                await self._settle(give_up, batch[middle:], tried_before=True)
                return
            await self._settle_alone(give_up, batch[0], error)
        for result in batch:
            self.on_settled(result)

    async def _write_whole(self, batch: Sequence[Settled], *, again: bool) -> None:
        try:
            await self._write(batch, again=again)
        except Exception as error:
            if is_of_the_batch(error):
                raise _BatchFailed from error
            raise

    async def _settle_alone(self, give_up: asyncio.Event, result: Settled, error: Exception) -> None:
        claim, attempt = result.settlement.claim, result.settlement.attempt
        _logger.error(
            "the result of delivery %s cannot be stored as it is: %r", claim.id, error.__cause__ or error
        )
        if attempt is None:
            return
        told = f"{attempt.outcome}; the details could not be stored"
        bare = replace(attempt, error=told, response_body=b"", address=None)
        stripped = replace(result, settlement=replace(result.settlement, attempt=bare))
        try:
            await through_outages(give_up, "settler", lambda: self._write([stripped], again=True))
        except Exception:
            _logger.exception("the result of delivery %s is lost; it is sent again", claim.id)

    async def _write(self, batch: Sequence[Settled], *, again: bool) -> None:
        """`again`: an earlier try may have been committed although its answer was lost. What it counted counts once."""
        settlements = [result.settlement for result in batch]
        counted: dict[UUID, bool] = {}
        async with self._pool.acquire() as tx, tx.transaction():
            settled = await deliveries.settle(tx, settlements, again=again)
            if again:
                counted = await endpoint_health.counted_before(tx, settlements)
                settled |= {s.claim.id for s in settlements if s.attempt and counted.get(s.attempt.id)}
            notes = self._health.notes([r.settlement for r in batch if not r.ours], counted)
            if notes:
                await endpoint_health.note_health(tx, notes)
        self._health.written(notes)
        self.tally.add(settlements)
        self.settled += len(settled)
        self.fenced_off += len(batch) - len(settled)
        claims = [result.settlement.claim for result in batch if result.disable_endpoint]
        for claim in {claim.endpoint_id: claim for claim in claims if claim.id in settled}.values():
            await self._disable(claim)

    async def _disable(self, claim: ClaimedDelivery) -> None:
        """Apart from the batch, which must not wait for whoever is at the endpoint's row. The next 410 tries again."""
        assert claim.endpoint is not None
        told = {"endpointId": format_id(ENDPOINT, claim.endpoint_id), "reason": "gone"}
        try:
            async with self._pool.acquire() as tx, tx.transaction():
                await endpoint_health.do_not_wait_long(tx)
                disabled = await endpoint_health.disable(tx, claim.endpoint_id, GONE, claim.endpoint.url)
                if disabled:
                    await events.record(tx, claim.tenant_id, "webhook_endpoint_disabled", told)
            if disabled:
                self._health.forget(claim.endpoint_id)
        except Exception:
            _logger.exception("endpoint %s answered 410 and could not be disabled", told["endpointId"])
