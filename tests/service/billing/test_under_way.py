"""A payment in flight blocks other actions on its subscription, with an error that says to try again."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from schema.billing.rows import Status
from schema.errors import Conflict
from service.billing.ledger import Unit
from service.billing.scanning import renewals
from tests.support.billing.billing_world import TenantBilling
from tests.support.billing.gateways import HeldGateway, start_held_renewal
from tests.support.database_waits import until
from tests.support.servers.connections import SANDBOX, Connect


async def another_card(billing: TenantBilling, sub: UUID) -> object:
    return await billing.subscriptions.replace_payment_method(sub, await billing.card())


async def another_plan(billing: TenantBilling, sub: UUID) -> object:
    return await billing.subscriptions.change_plan(sub, (await billing.plan()).id)


async def refund(billing: TenantBilling, sub: UUID) -> object:
    (charge, *_) = [payment for payment in await billing.payments() if payment.subscription_id == sub]
    return await billing.subscriptions.refund(charge.id, 100)


ACTIONS: list[tuple[str, Callable[[TenantBilling, UUID], Awaitable[object]]]] = [
    ("pause", lambda billing, sub: billing.subscriptions.pause(sub)),
    ("cancel", lambda billing, sub: billing.subscriptions.cancel(sub)),
    ("cancel later", lambda billing, sub: billing.subscriptions.cancel(sub, at_period_end=True)),
    ("limit", lambda billing, sub: billing.subscriptions.limit(sub, 7)),
    ("another card", another_card),
    ("another plan", another_plan),
    ("refund", refund),
]


@pytest.mark.parametrize(("name", "action"), ACTIONS, ids=[name for name, _ in ACTIONS])
async def test_a_charge_in_flight_blocks_actions_until_it_settles(
    held: tuple[TenantBilling, HeldGateway],
    name: str,
    action: Callable[[TenantBilling, UUID], Awaitable[object]],
) -> None:
    billing, gateway = held
    sub = await start_held_renewal(billing, gateway)
    before, events = await billing.subscription(sub), len(await billing.types())
    with pytest.raises(Conflict, match="in flight: try again shortly"):
        await action(billing, sub)
    assert (await billing.subscription(sub), len(await billing.types())) == (before, events)
    gateway.release()
    await billing.engine.charges.settled()
    assert (await billing.subscription(sub)).cycles == 2
    await action(billing, sub)
    assert len(await billing.types()) > events


async def test_an_action_waiting_for_a_scanner_sees_its_charge(
    billing: TenantBilling, connect: Connect, owner: asyncpg.Connection
) -> None:
    sub = await billing.subscribe()
    billing.clock.advance((await billing.subscription(sub)).current_period_end)
    scanning = await connect(SANDBOX)
    await scanning.execute("BEGIN")
    unit = Unit(scanning, billing.clock.time, billing.clock.moment)
    assert len(await renewals(Status.ACTIVE)(unit, 10)) == 1
    cancelling = asyncio.create_task(billing.subscriptions.cancel(sub))
    await until(owner, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    await scanning.execute("COMMIT")
    with pytest.raises(Conflict, match="in flight"):
        await cancelling
