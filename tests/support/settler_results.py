"""Builds results for a settler without a dispatcher."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from delivery.engine.settler import PendingSettlement
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, Settlement, Verdict
from schema.ids import new_id
from tests.support.engine import Engine, running
from tests.support.events import record_many


def without_slots(engine: Engine) -> Engine:
    """Detaches the dispatcher: results of these tests hold no slot in it."""
    engine.settler.on_settled = engine.settled.add
    return engine


async def some_claims(
    engine: Engine, tenant: UUID, endpoint: UUID, count: int, worker: int = 1
) -> list[ClaimedDelivery]:
    """Creates and leases that many deliveries."""
    await record_many(engine.pool, tenant, count)
    await engine.leave_pending()
    return await claim(engine, endpoint, count, worker)


async def claim(engine: Engine, endpoint: UUID, count: int, worker: int = 1) -> list[ClaimedDelivery]:
    async with engine.pool.acquire() as tx, tx.transaction():
        claims = await deliveries.claim(
            tx, deliveries.Lane.FIRST, [(endpoint, count)], deliveries.new_lease(), worker
        )
    assert len(claims) == count
    return claims


def attempt(outcome: str = "ok", **details: Any) -> Attempt:
    made: dict[str, Any] = {
        "id": new_id(),
        "started_at": datetime.now(UTC),
        "outcome": outcome,
        "status_code": 200 if outcome == "ok" else None,
        "error": None,
        "response_body": b"thanks",
        "address": "192.0.2.1",
        "dns_ms": None,
        "connect_ms": 1.5,
        "tls_ms": 2.5,
        "first_byte_ms": 3.5,
        "total_ms": 8.0,
    }
    return Attempt(**{**made, **details})


def delivered(claim: ClaimedDelivery, **details: Any) -> PendingSettlement:
    return PendingSettlement(Settlement(claim, Verdict.DELIVERED, attempt=attempt(**details)))


def failed(claim: ClaimedDelivery) -> PendingSettlement:
    return PendingSettlement(Settlement(claim, Verdict.FAILED, attempt=attempt("timeout")))


def gone(claim: ClaimedDelivery) -> PendingSettlement:
    answer = attempt("http_status", status_code=410, error="HTTP status 410")
    return PendingSettlement(Settlement(claim, Verdict.FAILED, attempt=answer), disable_endpoint=True)


async def settle(engine: Engine, *results: PendingSettlement) -> None:
    before = len(engine.settled)
    async with running(engine.settler):
        for result in results:
            engine.settler.put(result)
        await engine.settled.count(before + len(results))
