"""A gateway that gives no answers: to one order for ever, to anybody for a while, never. What it was asked for stays in
flight, is asked for again by the same reference, and holds nobody up; what it was not asked for is not begun in vain.
"""

from collections.abc import Iterable

import pytest

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.errors import Conflict
from schema.ids import PAYMENT, format_id
from service.billing.charges import SILENT_AFTER, TRIES, ChargeProcessor, settle_by_hand
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import GatewayUnavailable, Order, Outcome
from service.billing.scanning import BATCH, Scanner, scanners
from tests.support.billing.billing_world import GOOD_CARD, Business, at_work, business
from tests.support.billing.due import add_due
from tests.support.billing.gateways import HeldGateway
from tests.support.read_models.reckoning import reckon

UNANSWERED = "unanswered charges"
ANSWER_WITHIN_S = 0.05
NEVER_S = 3600.0


def away(_order: Order) -> None:
    raise GatewayUnavailable


def worker(shop: Business, *, try_after_s: float = NEVER_S) -> tuple[ChargeProcessor, list[Scanner]]:
    """An impatient one."""
    ledger = shop.engine.ledger
    charges = ChargeProcessor(
        ledger,
        shop.gateway,
        shop.engine.charges._tokens,
        answer_within_s=ANSWER_WITHIN_S,
        try_after_s=try_after_s,
    )
    return charges, scanners(ledger, charges)


async def all_step(these: Iterable[Scanner], charges: ChargeProcessor) -> list[int]:
    """One after the other; what each found."""
    found = []
    for scanner in these:
        found.append(await scanner.step())
        await charges.settled()
    return found


async def in_flight(shop: Business) -> int:
    count: int = await shop.pool.fetchval("SELECT count(*) FROM payment_attempts WHERE state = 'in_flight'")
    return count


async def test_one_order_that_never_has_an_answer_holds_nobody_up(shop: Business) -> None:
    odd = 123_456
    plans = [await shop.plan(amount, "week") for amount in (500_000, odd, 500_000)]
    subs = [await shop.subscribe(plan) for plan in plans]

    def picky(order: Order) -> Outcome | None:
        return away(order) if order.amount == odd else None

    shop.gateway.answers = picky
    for _ in range(3):
        await shop.after(weeks=1)
        await shop.after(seconds=LEASE.total_seconds())
    assert [(await shop.subscription(sub)).cycles for sub in subs] == [4, 1, 4]
    (waiting,) = [payment for payment in await shop.payments() if payment.state == "in_flight"]
    assert shop.gateway.charged[format_id(PAYMENT, waiting.id)] == 6
    shop.gateway.answers = lambda _order: None
    await shop.after(seconds=LEASE.total_seconds())
    assert (await shop.subscription(subs[1])).cycles >= 2


async def test_an_answer_that_never_comes_is_waited_for_for_a_while_and_asked_for_again(
    database: Database,
) -> None:
    gateway = HeldGateway()
    async with business(database, gateway=gateway) as shop:
        sub = await shop.subscribe()
        shop.clock.advance((await shop.subscription(sub)).current_period_end)
        charges, these = worker(shop)
        async with at_work(charges):
            gateway.hold()
            assert sum(await all_step(these, charges)) == 1
            assert await in_flight(shop) == 1
            gateway.let_go()
            assert sum(await all_step(these, charges)) == 0, "its lease has not run out"
            shop.clock.advance(shop.clock.time + LEASE)
            assert sum(await all_step(these, charges)) == 1
        assert (await shop.subscription(sub)).cycles == 2
        assert sorted(gateway.charged.values()) == [1, 2]
        await reckon([shop.pool], gateway.known)


async def test_while_a_gateway_is_away_not_everything_that_is_due_is_begun(shop: Business) -> None:
    """Nothing can be done for a subscription whose charge is under way, not even cancelling it."""
    await add_due(shop.database, shop.pool, shop.tenant, 1000, shop.clock.time, [GOOD_CARD])
    shop.gateway.answers = away
    charges, these = worker(shop)
    async with at_work(charges):
        while any(await all_step(these, charges)):
            pass
        assert SILENT_AFTER <= await in_flight(shop) <= BATCH + SILENT_AFTER


async def test_a_few_are_tried_whether_the_gateway_is_back_and_then_all_goes_on(
    shop: Business,
) -> None:
    await add_due(shop.database, shop.pool, shop.tenant, 800, shop.clock.time, [GOOD_CARD])
    shop.gateway.answers = away
    charges, these = worker(shop, try_after_s=0)
    async with at_work(charges):
        await all_step(these, charges)
        assert await all_step(these, charges) == [0, TRIES, TRIES, 0, TRIES, 0]
        shop.gateway.answers = lambda _order: None
        shop.clock.advance(shop.clock.time + LEASE)
        assert (await all_step(these, charges))[0] == TRIES
        while any(await all_step(these, charges)):
            pass
    account = await reckon([shop.pool], shop.gateway.known)
    assert account.charges == 800


async def test_a_gateway_that_answers_now_and_then_is_not_taken_for_away(shop: Business) -> None:
    await add_due(shop.database, shop.pool, shop.tenant, 400, shop.clock.time, [GOOD_CARD])
    asked = 0

    def every_fifth(_order: Order) -> Outcome | None:
        nonlocal asked
        asked += 1
        return None if asked % 5 == 0 else away(_order)

    shop.gateway.answers = every_fifth
    charges, these = worker(shop)
    async with at_work(charges):
        while any(await all_step(these, charges)):
            pass
        assert await in_flight(shop) == 400 * 4 // 5


async def test_one_order_that_never_has_an_answer_is_not_a_gateway_that_is_away(shop: Business) -> None:
    """However often it is asked for."""
    sub = await shop.subscribe()
    shop.gateway.answers = away
    await shop.at((await shop.subscription(sub)).current_period_end)
    for _ in range(SILENT_AFTER + 1):
        await shop.after(seconds=LEASE.total_seconds())
    assert shop.engine.charges.room > TRIES
    (unanswered,) = await billing_cases.unanswered(shop.pool, shop.clock.time, 10)
    assert unanswered.subscription_id == sub
    assert (await billing_cases.status(shop.pool, shop.clock.time)).unanswered == 1


async def test_what_never_has_an_answer_is_ended_by_what_the_gateways_records_say(shop: Business) -> None:
    sub = await shop.subscribe()
    shop.gateway.answers = away
    await shop.at((await shop.subscription(sub)).current_period_end)
    (waiting,) = [payment for payment in await shop.payments() if payment.state == "in_flight"]
    await settle_by_hand(shop.engine.ledger, waiting, Outcome())
    row = await shop.subscription(sub)
    assert (row.status, row.cycles) == ("active", 2)
    with pytest.raises(Conflict, match="is not in flight"):
        await settle_by_hand(shop.engine.ledger, waiting, Outcome("05"))
    assert (await shop.subscription(sub)).cycles == 2
