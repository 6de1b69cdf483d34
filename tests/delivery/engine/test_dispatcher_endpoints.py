"""An attempt uses the endpoint as it is then: its URL, its secret, its switches. And replays."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
import standardwebhooks

from delivery.message.endpoint_secret import generate_secret
from schema.connections.database import Database
from schema.core import endpoints
from schema.core.endpoints import EndpointChanges
from schema.deliveries import replays
from tests.support.engine import AT_ONCE, add_endpoint, engine, rotate, running
from tests.support.events import record, record_many
from tests.support.servers.receiver import OK, Answer, Receiver


async def test_deliveries_of_a_deleted_endpoint_are_skipped(
    database: Database, superuser: asyncpg.Connection, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 5)
        await ours.leave_pending()
        await superuser.execute(
            "DELETE FROM core.webhook_endpoint_secrets WHERE endpoint_id = $1", endpoint_id
        )
        await superuser.execute("DELETE FROM core.webhook_endpoints WHERE id = $1", endpoint_id)
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(5)
        assert await ours.statuses() == ["skipped"] * 5
        assert await ours.attempts() == []
    assert len(receiver.requests) == 0


async def test_a_retry_goes_to_the_current_url_with_the_current_secret(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    old, new = generate_secret(), generate_secret()
    endpoint_id = await add_endpoint(database, tenant, receiver.url + "/old", secret=old)
    receiver.answer = lambda request: Answer(500) if request.path == "/old" else OK
    async with engine(database, policy=AT_ONCE) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler):
            await ours.submit_all()
            await ours.settled.count(1)
            await endpoints.update(
                database.core, endpoint_id, EndpointChanges(receiver.url + "/new", None, None, None)
            )
            await rotate(database, endpoint_id, new, timedelta(0))
            assert await ours.dispatcher.claim() == 1
            await ours.settled.count(2)

    first, second = receiver.requests
    assert (first.path, second.path) == ("/old", "/new")
    assert first.event_id == second.event_id
    standardwebhooks.Webhook(old).verify(first.body, dict(first.headers))
    standardwebhooks.Webhook(new).verify(second.body, dict(second.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(old).verify(second.body, dict(second.headers))


async def test_a_secret_that_does_not_decrypt_fails_the_attempt(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """A worker with the wrong DURO_SECRET_KEY retries by schedule; one with the right key sends the delivery."""
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, key=bytes(32)) as wrong:
        await record(wrong.pool, tenant)
        async with running(*wrong.everything()):
            await wrong.settled.count(1)
            assert await wrong.dispatcher.claim() == 0
        (row,) = await wrong.rows()
        assert (row["status"], row["schedule_attempts"], row["lease"]) == ("pending", 1, None)
        assert row["due_at"] > datetime.now(UTC) + timedelta(minutes=50)
        (attempt,) = await wrong.attempts()
        assert (attempt["outcome"], attempt["error"]) == ("protocol", "cannot build the request")
        assert wrong.dispatcher.in_flight == 0
        assert wrong.dispatcher._part.any, "the failure is reported"
        assert wrong.dispatcher._part.reasons(0) == [], "the worker stays ready"
        await wrong.pool.execute("UPDATE webhook_deliveries SET due_at = now()")
    async with engine(database) as right, running(right.settler, right.dispatcher):
        await receiver.requests.count(1)
        await right.settled.count(1)


# Replays


async def test_a_replay_requested_during_an_attempt_makes_another_one(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler, ours.dispatcher):
            await ours.submit_all()
            await receiver.requests.count(1)
            (row,) = await ours.rows()
            assert await replays.replay_one(ours.pool, tenant, row["id"]) == "pending"
            held.set()
            first, second = await receiver.requests.count(2)
            await ours.settled.count(2)
        assert first.event_id == second.event_id
        (row,) = await ours.rows()
        assert (row["status"], row["attempts"], row["replays"]) == ("delivered", 2, 0)


async def test_a_failed_replay_leaves_the_retry_schedule_alone(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    receiver.answer = lambda _request: Answer(500)
    async with engine(database) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler):
            await ours.submit_all()
            await ours.settled.count(1)
            (before,) = await ours.rows()
            await replays.replay_one(ours.pool, tenant, before["id"])
            assert await ours.dispatcher.claim() == 1
            await ours.settled.count(2)
        (after,) = await ours.rows()
        assert (after["retry_at"], after["schedule_attempts"]) == (before["retry_at"], 1)
        assert after["due_at"] == after["retry_at"] > datetime.now(UTC) + timedelta(minutes=50)
        assert [attempt["replay"] for attempt in await ours.attempts()] == [False, True]
