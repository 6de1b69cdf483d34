"""Warns about endpoints that fail for long, and in the end disables them: one mode, for all workers.

     every CHECK_EVERY_S:  failing for half of `disable_after` or longer ── by index, PAGE at a time
                                │ enabled, not paused: due_step(), by the database's clock
            ┌───────────────────┼──────────────────────────┐
         nothing      `warned` and the event       disabled, health reset and the event
                         one transaction                one transaction

Every worker checks. The first one that changes the row records the event; the others find the row changed. A worker that
dies before the commit has changed nothing, and the next check finds the endpoint as it was. A paused endpoint gets no
attempts and no warnings; its earlier failures stay. An endpoint whose row is locked for two seconds is left for the next
check.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import asyncpg

from delivery.health.breaker import DEFAULT_DISABLE_AFTER, Step, due_step, first_warning_after
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

CHECK_EVERY_S: Final = 10.0
PAGE: Final = 500
_ACT: Final = "warn about or disable an endpoint"
_OF_THIS_ROW: Final = (asyncpg.LockNotAvailableError, asyncpg.exceptions.TransactionRollbackError)


class _OutOfDate(Exception):
    """The endpoint has succeeded, or another worker was first: the transaction is rolled back."""


@dataclass(slots=True)
class _Round:
    """The result of a check for all its endpoints together, so that the success of one does not hide another's failure."""

    succeeded: int = 0
    error: Exception | None = None
    about: str = ""
    held: bool = True

    def failed(self, error: Exception, about: str, *, held: bool) -> None:
        """`held`: another session has the endpoint's row locked."""
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
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        """`disable_after`: how long an endpoint may fail without a success."""
        self._pool = pool
        self._disable_after = disable_after
        self._check_every_s = check_every_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "check failing endpoints", lambda: self.check(stop))
            await sleep_unless(stop, self._check_every_s)

    async def check(self, stop: asyncio.Event) -> None:
        """Checks all endpoints that fail for long enough. Raises the error of an outage."""
        round_ = _Round()
        last: FailingEndpoint | None = None
        while not stop.is_set():
            page = await endpoint_health.failing(
                self._pool, first_warning_after(self._disable_after), last, PAGE
            )
            for found in page:
                step = self._step(found)
                if step is not Step.NOTHING and not stop.is_set():
                    await self._act_and_report(found, step, round_)
            if len(page) < PAGE:
                round_.report()
                return
            last = page[-1]

    def _step(self, found: FailingEndpoint) -> Step:
        if not found.active:
            return Step.NOTHING
        return due_step(
            found.failing_since, found.last_failure_at, found.warned, found.now, self._disable_after
        )

    async def _act_and_report(self, found: FailingEndpoint, step: Step, round_: "_Round") -> None:
        """Acts on one endpoint. Its own error does not stop the others; an outage does."""
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
        with suppress(_OutOfDate):
            async with self._pool.acquire() as tx, tx.transaction():
                await endpoint_health.limit_lock_wait(tx)
                if step is Step.DISABLE:
                    await self._disable(tx, found)
                else:
                    await self._warn(tx, found, step)

    async def _warn(self, tx: Connection, found: FailingEndpoint, step: Step) -> None:
        summary = await endpoint_health.warn(tx, found, step)
        disables_at = iso_millis(found.failing_since + self._disable_after)
        data = _event_data(found, summary, percent=int(step), disablesAt=disables_at)
        await events.record(tx, found.tenant_id, "webhook_endpoint_failing", data)

    async def _disable(self, tx: Connection, found: FailingEndpoint) -> None:
        reason = f"No successful delivery for {format_duration(self._disable_after)}."
        summary = await endpoint_health.disable_failing(tx, found, reason)
        data = _event_data(found, summary, reason="failing")
        await events.record(tx, found.tenant_id, "webhook_endpoint_disabled", data)


def _event_data(found: FailingEndpoint, summary: FailureSummary | None, **more: Any) -> dict[str, Any]:
    """Builds the event's data, without the URL: it may contain a token."""
    if summary is None:
        raise _OutOfDate
    return {
        "endpointId": format_id(ENDPOINT, found.endpoint_id),
        "failingSince": iso_millis(found.failing_since),
        "consecutiveFailures": summary.consecutive_failures,
        "lastError": summary.last_error,
        **more,
    }
