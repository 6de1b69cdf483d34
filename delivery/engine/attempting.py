"""Makes one attempt at a claimed delivery: builds the request, sends it and judges the result."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from delivery.engine.capacity import ResponseTime
from delivery.engine.request_building import Message, Outbound
from delivery.engine.retry_policy import RetryPolicy
from delivery.engine.settler import PendingSettlement
from delivery.engine.verdict import judge
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, Outcome
from delivery.http.http_sender import HttpSender
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, Settlement, Verdict
from schema.errors import DuroError
from schema.failures import PartFailures
from schema.ids import new_id

QUICK_MS: Final = 1000.0  # an attempt that holds its slot for longer delays others
# It counts as an attempt, so that a delivery that can never be sent fails in the end.
_UNPREPARED = AttemptResult(
    Outcome.PROTOCOL, None, "cannot build the request", None, b"", None, AttemptTimings(), local_fault=True
)
_PREPARE: Final = "prepare a request"
_UNREADABLE = replace(_UNPREPARED, error="the event's stored data cannot be read")


class Attempts:
    def __init__(self, outbound: Outbound, sender: HttpSender, policy: RetryPolicy) -> None:
        self._outbound = outbound
        self._sender = sender
        self._policy = policy
        self.part = PartFailures("")
        """The part that failures are reported for: its dispatcher's."""

    async def make(self, claim: ClaimedDelivery, message: Message) -> PendingSettlement:
        """Makes the attempt. Raises nothing but CancelledError."""
        if claim.endpoint is None or not claim.endpoint.enabled:
            return PendingSettlement(Settlement(claim, Verdict.SKIPPED))
        started_at = datetime.now(UTC)
        result = await self._send(claim, message, started_at)
        now = datetime.now(UTC)
        judgement = judge(
            result,
            attempts_made=claim.schedule_attempts,
            replay=claim.replay,
            policy=self._policy,
            now=now,
            random=random.random(),  # noqa: S311 - jitter, not a secret
        )
        retry_in = judgement.retry_at - now if judgement.retry_at else None
        return PendingSettlement(
            Settlement(claim, judgement.verdict, retry_in, _record(result, started_at)),
            disable_endpoint=judgement.disable_endpoint,
            response_time=response_time(result),
            local_fault=result.local_fault,
        )

    async def _send(self, claim: ClaimedDelivery, message: Message, started_at: datetime) -> AttemptResult:
        if not claim.readable:
            self._failed(claim, DuroError("The event's stored data cannot be read."))
            return _UNREADABLE
        try:
            request = self._outbound.request(claim, message, int(started_at.timestamp()))
        except Exception as error:  # noqa: BLE001  whatever it is, the attempt is recorded as failed
            self._failed(claim, error)
            return _UNPREPARED
        if self.part.any:
            self.part.succeeded(_PREPARE)
        return await self._sender.send(request)

    def _failed(self, claim: ClaimedDelivery, error: Exception) -> None:
        self.part.failed(_PREPARE, error, f"delivery {claim.id}", harmless=True)


def response_time(result: AttemptResult) -> ResponseTime:
    if result.outcome is Outcome.TIMEOUT or result.timed_out:
        return ResponseTime.HUNG
    return ResponseTime.QUICK if result.timings.total < QUICK_MS else ResponseTime.SLOW


def _record(result: AttemptResult, started_at: datetime) -> Attempt:
    took = result.timings
    return Attempt(
        id=new_id(),
        started_at=started_at,
        outcome=result.outcome,
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
