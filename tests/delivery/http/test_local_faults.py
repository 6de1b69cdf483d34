"""A local fault counts as a try of the retry schedule, but not against the endpoint's health."""

from dataclasses import replace
from typing import cast
from uuid import UUID

import pytest

from delivery.engine.attempting import Attempts
from delivery.engine.request_building import Message, Outbound
from delivery.engine.retry_policy import RetryPolicy
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, OutboundRequest, Outcome
from delivery.http.http_sender import HttpSender
from schema.deliveries.deliveries import ClaimedDelivery, EndpointTarget, Verdict
from tests.support.engine import Engine
from tests.support.settler_results import failed, settle, some_claims


class NoWayOut:
    async def send(self, _request: OutboundRequest) -> AttemptResult:
        return AttemptResult(
            Outcome.CONNECT, None, "no way", None, b"", None, AttemptTimings(), local_fault=True
        )


class Prepared:
    def request(self, _claim: ClaimedDelivery, _message: Message, _at: int) -> None: ...


class Unprepared:
    def request(self, _claim: ClaimedDelivery, _message: Message, _at: int) -> None:
        raise ValueError


@pytest.mark.parametrize("outbound", [Prepared(), Unprepared()], ids=["no-way-out", "unprepared"])
async def test_a_local_fault_is_marked_and_retried(
    ours: Engine, tenant: UUID, endpoint: UUID, outbound: object
) -> None:
    (claim,) = await some_claims(ours, tenant, endpoint, 1)
    target = EndpointTarget(endpoint, tenant, "https://example.com/", (), None, True, ())
    attempts = Attempts(cast(Outbound, outbound), cast(HttpSender, NoWayOut()), RetryPolicy())
    settled = await attempts.make(replace(claim, endpoint=target), Message("evt_1", b"{}"))
    assert (settled.local_fault, settled.settlement.verdict) == (True, Verdict.RETRY)


async def test_a_local_fault_is_recorded_without_changing_endpoint_health(
    ours: Engine, tenant: UUID, endpoint: UUID
) -> None:
    claims = await some_claims(ours, tenant, endpoint, 12)
    await settle(ours, *(replace(failed(claim), local_fault=True) for claim in claims))
    assert len(await ours.attempts()) == 12
    assert ours.settler._health.closed(endpoint)
    assert (
        await ours.pool.fetchval("SELECT count(*) FROM endpoint_health WHERE endpoint_id = $1", endpoint) == 0
    )
