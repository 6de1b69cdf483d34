"""Replays: a settled delivery restarts its schedule, a pending one gets one more attempt and keeps its schedule."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries.deliveries import Verdict
from schema.errors import NotFound
from schema.modes import Mode
from tests.support.deliveries import Queue, attempt, new_endpoint

HOUR = timedelta(hours=1)


@pytest.fixture
async def queue(database: Database, tenant: UUID) -> Queue:
    return Queue(database.data(Mode.TEST), tenant, await new_endpoint(database, tenant))


async def settled(queue: Queue, verdict: Verdict) -> UUID:
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), verdict)
    return delivery


async def waiting_for_a_retry(queue: Queue) -> UUID:
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), Verdict.RETRY, retry_in=HOUR)
    return delivery


@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.FAILED, Verdict.SKIPPED])
async def test_a_settled_delivery_restarts_its_schedule(queue: Queue, verdict: Verdict) -> None:
    delivery = await settled(queue, verdict)
    assert await queue.replay(delivery) == verdict.value
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.schedule_attempts, claimed.replay) == (delivery, 0, False)
    shown = await queue.show(delivery)
    assert (shown.status, shown.settled_at) == ("pending", None)
    assert shown.attempts_made == (0 if verdict is Verdict.SKIPPED else 1)


async def test_a_failed_replay_leaves_a_pending_deliverys_schedule(queue: Queue) -> None:
    delivery = await waiting_for_a_retry(queue)
    scheduled = (await queue.show(delivery)).retry_at
    assert await queue.replay(delivery) == "pending"
    claimed = await queue.claim_one()
    assert (claimed.replay, claimed.schedule_attempts) == (True, 1)
    await queue.settle(claimed, Verdict.KEPT)

    shown = await queue.show(delivery)
    assert (shown.schedule_attempts, shown.attempts_made, shown.replays) == (1, 2, 0)
    assert shown.due_at == shown.retry_at == scheduled
    assert [a.replay for a in shown.attempts] == [False, True]
    assert await queue.claim() == []


async def test_a_replay_that_succeeds_ends_a_pending_one(queue: Queue) -> None:
    delivery = await waiting_for_a_retry(queue)
    await queue.replay(delivery)
    await queue.settle(await queue.claim_one(), Verdict.DELIVERED, tried=attempt("ok", 200))
    shown = await queue.show(delivery)
    assert (shown.status, shown.replays, shown.due_at, shown.retry_at) == ("delivered", 0, None, None)
    assert await queue.claim() == []


async def test_each_requested_replay_is_made(queue: Queue) -> None:
    delivery = await waiting_for_a_retry(queue)
    for _ in range(3):
        await queue.replay(delivery)
    for _ in range(3):
        claimed = await queue.claim_one()
        assert claimed.replay
        await queue.settle(claimed, Verdict.KEPT)
    assert await queue.claim() == []
    assert (await queue.show(delivery)).attempts_made == 4


async def test_a_replay_requested_during_a_failing_attempt_comes_next(queue: Queue) -> None:
    (delivery,) = await queue.add()
    in_flight = await queue.claim_one()
    assert await queue.replay(delivery) == "pending"
    assert await queue.claim() == []
    await queue.settle(in_flight, Verdict.RETRY, retry_in=HOUR)
    claimed = await queue.claim_one()
    assert (claimed.replay, claimed.schedule_attempts) == (True, 1)
    await queue.settle(claimed, Verdict.KEPT)
    shown = await queue.show(delivery)
    assert shown.due_at
    assert shown.due_at > datetime.now(UTC) + 0.9 * HOUR


@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.FAILED])
async def test_a_replay_requested_during_the_last_attempt_restarts_the_schedule(
    queue: Queue, verdict: Verdict
) -> None:
    (delivery,) = await queue.add()
    in_flight = await queue.claim_one()
    await queue.replay(delivery)
    await queue.settle(in_flight, verdict)
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.schedule_attempts, claimed.replay) == (delivery, 0, False)
    await queue.settle(claimed, Verdict.DELIVERED)
    shown = await queue.show(delivery)
    assert (shown.status, shown.attempts_made, shown.replays) == ("delivered", 2, 0)


async def test_one_success_ends_all_replays_requested_before_it(queue: Queue) -> None:
    (delivery,) = await queue.add()
    in_flight = await queue.claim_one()
    await queue.replay(delivery)
    await queue.replay(delivery)
    await queue.settle(in_flight, Verdict.DELIVERED)
    await queue.settle(await queue.claim_one(), Verdict.DELIVERED)
    assert await queue.claim() == []
    shown = await queue.show(delivery)
    assert (shown.status, shown.attempts_made, shown.replays) == ("delivered", 2, 0)


async def test_a_retry_due_during_a_replay_follows_it(queue: Queue, owner: asyncpg.Connection) -> None:
    delivery = await waiting_for_a_retry(queue)
    await queue.replay(delivery)
    claimed = await queue.claim_one()
    await owner.execute("UPDATE webhook_deliveries SET retry_at = now() WHERE id = $1", delivery)
    await queue.settle(claimed, Verdict.KEPT)
    scheduled = await queue.claim_one()
    assert (scheduled.replay, scheduled.schedule_attempts) == (False, 1)


async def test_another_tenants_delivery_is_not_replayed_or_shown(queue: Queue, tenant: UUID) -> None:
    delivery = await settled(queue, Verdict.FAILED)
    stranger = Queue(queue.data, UUID(int=1), queue.endpoint)
    with pytest.raises(NotFound):
        await stranger.replay(delivery)
    with pytest.raises(NotFound):
        await stranger.show(delivery)
    assert (await queue.show(delivery)).status == "failed"
