"""One that always fails is in nobody's way: held with its fault when it cannot be begun, asked for again when its answer
cannot be written. The others in its batch are charged as if it were not there.
"""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from schema.billing import billing_cases
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import Outcome
from service.billing.scanning import HOLD
from tests.support.billing.billing_world import Business
from tests.support.refusals import refusing

UNANSWERED = "unanswered charges"


async def subscribed(shop: Business, count: int = 7) -> list[UUID]:
    plan = await shop.plan(interval="week")
    return [await shop.subscribe(plan) for _ in range(count)]


async def cycles(shop: Business, subs: list[UUID]) -> list[int]:
    return [(await shop.subscription(sub)).cycles for sub in subs]


async def test_a_subscription_whose_invoice_is_refused_is_held_and_does_not_stop_the_scan(
    shop: Business, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(shop)
    async with refusing(owner, "INSERT ON invoices", f"NEW.subscription_id = '{subs[3]}'"):
        await shop.after(weeks=1)
        assert await cycles(shop, subs) == [2, 2, 2, 1, 2, 2, 2]
        (held,) = await billing_cases.held(shop.pool, shop.clock.time, 10)
        assert (held.id, held.held_until) == (subs[3], shop.clock.time + HOLD)
        assert held.fault == "renewals: RaiseError: this one never works"
        assert await shop.step("renewals") == 0
    assert await billing_cases.release(shop.pool) == 1
    await shop.scan()
    assert await cycles(shop, subs) == [2] * 7


async def test_what_is_held_is_tried_again_by_itself_after_a_while(
    shop: Business, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(shop, 2)
    async with refusing(owner, "INSERT ON invoices", f"NEW.subscription_id = '{subs[0]}'"):
        await shop.after(weeks=1)
    await shop.at(shop.clock.time + HOLD)
    assert await cycles(shop, subs) == [2, 2]


async def test_a_recovery_that_is_refused_is_held_and_does_not_stop_the_others(
    shop: Business, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(shop)
    shop.gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    shop.clock.advance(shop.clock.time + timedelta(weeks=1))
    await shop.step("renewals")
    await shop.engine.charges.settled()
    poison = f"NEW.subscription_id = '{subs[0]}'"
    async with refusing(owner, "INSERT ON payment_attempts", poison):
        await shop.scan()
    assert await cycles(shop, subs) == [1, *[2] * 6]
    (held,) = await billing_cases.held(shop.pool, shop.clock.time, 10)
    assert held.fault.startswith("recoveries: ")
    await billing_cases.release(shop.pool)
    await shop.scan()
    assert await cycles(shop, subs) == [2] * 7


@pytest.mark.parametrize("code", ["raise_exception", "query_canceled"])
async def test_an_answer_that_cannot_be_written_leaves_the_others_settled_and_is_asked_for_again(
    shop: Business, owner: asyncpg.Connection, code: str
) -> None:
    """Running out of time is like a defect here: a smaller batch may have enough."""
    subs = await subscribed(shop)
    poison = f"NEW.subscription_id = '{subs[3]}' AND NEW.state <> 'in_flight'"
    async with refusing(owner, "UPDATE ON payment_attempts", poison, code=code):
        await shop.after(weeks=1)
        assert await cycles(shop, subs) == [2, 2, 2, 1, 2, 2, 2]
        await shop.at(shop.clock.time + LEASE)
        assert await cycles(shop, subs) == [2, 2, 2, 1, 2, 2, 2]
    await shop.at(shop.clock.time + LEASE)
    assert await cycles(shop, subs) == [2] * 7
    assert sorted(shop.gateway.charged.values()) == [*[1] * 13, 3]
    assert len(await shop.events("subscription_payment_success")) == 14
