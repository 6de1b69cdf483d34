"""Tells of endpoints that have been failing for long, and disables those that go on: one mode's, for all workers.

     every LOOK_EVERY_S:  failing for half of the way or more ── by index, PAGE at a time
                                │ enabled, not paused: watch(), by the database's clock
            ┌───────────────────┼──────────────────────────┐
         nothing      `warned` and the event       disabled, health reset and the event
                         one transaction                one transaction

Each worker looks; of several the first to change the row tells, and the others find it changed. What dies in between
has told nothing, and the next look finds the endpoint as it was. A paused endpoint gets no attempts and no warnings;
what it failed before stands. An endpoint whose row somebody holds is passed by after two seconds, and looked at again
the next time.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import asyncpg

from delivery.health.breaker import DEFAULT_DISABLE_AFTER, Step, watch, watched_after
from schema.connections.database import Connection, Pool
from schema.connections.error_kinds import is_data_fault
from schema.deliveries import endpoint_health
from schema.deliveries.endpoint_health import FailingEndpoint, FailureSummary
from schema.durations import format_duration
from schema.event_log import events
from schema.failures import current_part, succeeded
from schema.ids import ENDPOINT, format_id
from schema.polling import sleep_unless, through_outages
from schema.timestamps import iso_millis

LOOK_EVERY_S: Final = 10.0
PAGE: Final = 500
_ACT: Final = "warn about an endpoint, or disable it"
_OF_THIS_ROW: Final = (asyncpg.LockNotAvailableError, asyncpg.exceptions.TransactionRollbackError)


class _NothingToTell(Exception):
    """It succeeded meanwhile, or another worker was first: the transaction is undone."""


@dataclass(slots=True)
class _Round:
    """How it went for all the endpoints of a round together, so that one of them cannot hide what the others say."""

    succeeded: int = 0
    error: Exception | None = None
    about: str = ""
    held: bool = True

    def failed(self, error: Exception, about: str, *, held: bool) -> None:
        """`held`: somebody else has the endpoint's row."""
        if self.error is None or (self.held and not held):
            self.error, self.about = error, about
        self.held &= held

    def report(self) -> None:
        if self.error is None:
            succeeded(_ACT)
        else:
            harmless = self.held or self.succeeded > 0
            current_part().failed(_ACT, self.error, self.about, harmless=harmless)


class HealthWatch:
    def __init__(
        self,
        pool: Pool,
        disable_after: timedelta = DEFAULT_DISABLE_AFTER,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """`disable_after`: how long an endpoint may go without a success."""
        self._pool = pool
        self._disable_after = disable_after
        self._look_every_s = look_every_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "look at failing endpoints", lambda: self.look(stop))
            await sleep_unless(stop, self._look_every_s)

    async def look(self, stop: asyncio.Event) -> None:
        """One round over all that fail for long enough. Raises what an outage raises."""
        round_ = _Round()
        last: FailingEndpoint | None = None
        while not stop.is_set():
            page = await endpoint_health.failing(self._pool, watched_after(self._disable_after), last, PAGE)
            for found in page:
                step = self._step(found)
                if step is not Step.NOTHING and not stop.is_set():
                    await self._act_apart(found, step, round_)
            if len(page) < PAGE:
                round_.report()
                return
            last = page[-1]

    def _step(self, found: FailingEndpoint) -> Step:
        if not found.active:
            return Step.NOTHING
        return watch(found.failing_since, found.last_failure_at, found.warned, found.now, self._disable_after)

    async def _act_apart(self, found: FailingEndpoint, step: Step, round_: "_Round") -> None:
        """One endpoint's trouble is not the others'. An outage is everybody's."""
        shown = format_id(ENDPOINT, found.endpoint_id)
        try:
            await self._act(found, step)
        except Exception as error:
            held = isinstance(error, _OF_THIS_ROW)
            if not held and not is_data_fault(error):
                raise
            round_.failed(error, f"endpoint {shown}", held=held)
        else:
            round_.succeeded += 1

    async def _act(self, found: FailingEndpoint, step: Step) -> None:
        with suppress(_NothingToTell):
            async with self._pool.acquire() as tx, tx.transaction():
                await endpoint_health.limit_lock_wait(tx)
                if step is Step.DISABLE:
                    await self._disable(tx, found)
                else:
                    await self._warn(tx, found, step)

    async def _warn(self, tx: Connection, found: FailingEndpoint, step: Step) -> None:
        summary = await endpoint_health.warn(tx, found, step)
        disables_at = iso_millis(found.failing_since + self._disable_after)
        told = _told(found, summary, percent=int(step), disablesAt=disables_at)
        await events.record(tx, found.tenant_id, "webhook_endpoint_failing", told)

    async def _disable(self, tx: Connection, found: FailingEndpoint) -> None:
        reason = f"Nothing was delivered for {format_duration(self._disable_after)}."
        summary = await endpoint_health.disable_failing(tx, found, reason)
        told = _told(found, summary, reason="failing")
        await events.record(tx, found.tenant_id, "webhook_endpoint_disabled", told)


def _told(found: FailingEndpoint, summary: FailureSummary | None, **more: Any) -> dict[str, Any]:
    """No URL: it may hold a token."""
    if summary is None:
        raise _NothingToTell
    return {
        "endpointId": format_id(ENDPOINT, found.endpoint_id),
        "failingSince": iso_millis(found.failing_since),
        "consecutiveFailures": summary.consecutive_failures,
        "lastError": summary.last_error,
        **more,
    }
