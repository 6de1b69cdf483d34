"""A secret is rotated during delivery, and receivers can switch within the grace period."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
import standardwebhooks
import stripe

from delivery.message.endpoint_secret import generate_secret
from schema.connections.database import Database
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import add_endpoint, rotate
from tests.support.events import record, record_many
from tests.support.servers.duro_process import duro, settings
from tests.support.servers.receiver import Received, Receiver

pytestmark = pytest.mark.drill


def verifies(request: Received, secret: str) -> bool:
    """Verifies both signatures with independent code. Both must agree."""
    headers = {name.lower(): value for name, value in request.headers}
    try:
        standardwebhooks.Webhook(secret).verify(request.body, headers)
        standard = True
    except standardwebhooks.WebhookVerificationError:
        standard = False
    try:
        stripe.WebhookSignature.verify_header(request.body.decode(), headers["duro-signature"], secret, 300)
        duro = True
    except stripe.SignatureVerificationError:
        duro = False
    assert standard == duro
    return standard


async def test_the_old_secret_verifies_only_within_the_grace_period(
    database: Database, db_url: str, key: bytes, tenant: UUID, receiver: Receiver
) -> None:
    pool = database.data(Mode.TEST)
    old, new, newest = generate_secret(), generate_secret(), generate_secret()
    endpoint = await add_endpoint(database, tenant, receiver.url, secret=old)

    async def traffic() -> None:
        while True:
            await record(pool, tenant)

    async with duro("work", "--json", env=settings(db_url, key)) as work:
        await work.said()
        flowing = asyncio.create_task(traffic())
        await receiver.requests.count(50)
        await rotate(database, endpoint, new, timedelta(hours=1))
        within_grace = await _arrivals_of(receiver, await record_many(pool, tenant, 50))
        await rotate(database, endpoint, newest, timedelta(0))
        flowing.cancel()
        after_grace = await _arrivals_of(receiver, await record_many(pool, tenant, 50))

    assert all(verifies(request, old) for request in list(receiver.requests)[:50])
    assert not any(verifies(request, new) for request in list(receiver.requests)[:20])
    assert all(verifies(request, new) for request in within_grace)
    assert all(verifies(request, old) for request in within_grace)
    assert all(verifies(request, newest) for request in after_grace)
    assert not any(verifies(request, new) for request in after_grace), "its grace period was zero"
    assert not any(verifies(request, old) for request in after_grace), "older secrets ended too"
    assert all(verifies(request, old) or verifies(request, newest) for request in receiver.requests)


async def _arrivals_of(receiver: Receiver, events: list[UUID]) -> list[Received]:
    wanted = {format_id(EVENT, event) for event in events}
    await receiver.requests.until(lambda _all: wanted <= receiver.event_ids().keys())
    return [request for request in receiver.requests if request.event_id in wanted]
