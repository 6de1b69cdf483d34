"""While money is under way for a subscription nothing else is done to it, and whoever asks is told to try again."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from schema.billing.rows import Status
from schema.errors import Conflict
from service.billing.ledger import Unit
from service.billing.scanning import renewals
from tests.support.asking import until
from tests.support.billing.billing_world import Business
from tests.support.billing.gateways import HeldGateway, renewing
from tests.support.servers.connections import SANDBOX, Connect


async def another_card(shop: Business, sub: UUID) -> object:
    return await shop.subscriptions.replace_payment_method(sub, await shop.card())


async def another_plan(shop: Business, sub: UUID) -> object:
    return await shop.subscriptions.change_plan(sub, (await shop.plan()).id)


async def refund(shop: Business, sub: UUID) -> object:
    (charge, *_) = [payment for payment in await shop.payments() if payment.subscription_id == sub]
    return await shop.subscriptions.refund(charge.id, 100)


ACTIONS: list[tuple[str, Callable[[Business, UUID], Awaitable[object]]]] = [
    ("pause", lambda shop, sub: shop.subscriptions.pause(sub)),
    ("cancel", lambda shop, sub: shop.subscriptions.cancel(sub)),
    ("cancel later", lambda shop, sub: shop.subscriptions.cancel(sub, at_period_end=True)),
    ("limit", lambda shop, sub: shop.subscriptions.limit(sub, 7)),
    ("another card", another_card),
    ("another plan", another_plan),
    ("refund", refund),
]


@pytest.mark.parametrize(("name", "action"), ACTIONS, ids=[name for name, _ in ACTIONS])
async def test_while_money_is_under_way_nothing_else_is_done_and_afterwards_it_is(
    held: tuple[Business, HeldGateway], name: str, action: Callable[[Business, UUID], Awaitable[object]]
) -> None:
    shop, gateway = held
    sub = await renewing(shop, gateway)
    before, told = await shop.subscription(sub), len(await shop.types())
    with pytest.raises(Conflict, match="in flight: try again shortly"):
        await action(shop, sub)
    assert (await shop.subscription(sub), len(await shop.types())) == (before, told)
    gateway.let_go()
    await shop.engine.charges.settled()
    assert (await shop.subscription(sub)).cycles == 2
    await action(shop, sub)
    assert len(await shop.types()) > told


async def test_an_action_that_waits_for_a_scanner_finds_the_charge_that_it_began(
    shop: Business, connect: Connect, owner: asyncpg.Connection
) -> None:
    sub = await shop.subscribe()
    shop.clock.advance((await shop.subscription(sub)).current_period_end)
    scanning = await connect(SANDBOX)
    await scanning.execute("BEGIN")
    unit = Unit(scanning, shop.clock.time, shop.clock.moment)
    assert len(await renewals(Status.ACTIVE)(unit, 10)) == 1
    cancelling = asyncio.create_task(shop.subscriptions.cancel(sub))
    await until(owner, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    await scanning.execute("COMMIT")
    with pytest.raises(Conflict, match="in flight"):
        await cancelling
