"""What merchants and customers do to a subscription: each action with its event, each refusal in a sentence that changes
nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from schema.billing.rows import Interval, PaymentAttempt
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import PAYMENT, PLAN, SUBSCRIPTION, format_id, new_id
from service.billing.catalog import NewPromoCode
from service.billing.decisions.lifecycle import IllegalAction
from service.billing.decisions.periods import boundary
from service.billing.gateway.gateway import Outcome
from tests.support.billing.billing_world import (
    EXPIRED_CARD,
    FLAKY_CARD,
    GOOD_CARD,
    POOR_CARD,
    START,
    Business,
)
from tests.support.event_schemas import assert_conforms

DAY = timedelta(days=1)
Act: TypeAlias = Callable[[Business, UUID], Awaitable[Any]]


async def in_every_state(shop: Business) -> dict[str, UUID]:
    """One subscription in each of the nine states, by its state."""
    monthly, single = await shop.plan(), await shop.plan(interval=Interval.DAY, max_cycles=1)
    trial, long_trial = await shop.plan(trial_days=3), await shop.plan(trial_days=30)
    made = {
        "active": await shop.subscribe(monthly),
        "paused": await shop.subscribe(monthly),
        "canceled": await shop.subscribe(monthly),
        "expired": await shop.subscribe(single),
        "incomplete_expired": await shop.subscribe(monthly, POOR_CARD),
        "past_due": await shop.subscribe(trial, POOR_CARD),
        "unpaid": await shop.subscribe(trial, EXPIRED_CARD),
        "trialing": await shop.subscribe(long_trial),
    }
    await shop.subscriptions.pause(made["paused"])
    await shop.subscriptions.cancel(made["canceled"])
    await shop.until(START + 11 * DAY)
    made["incomplete"] = await shop.subscribe(monthly, POOR_CARD)
    for status, sub in made.items():
        assert (await shop.subscription(sub)).status == status
    return made


async def last(shop: Business) -> tuple[str, dict[str, Any]]:
    type_, data = (await shop.events())[-1]
    assert_conforms(type_, data)
    return type_, data


async def paid(shop: Business) -> PaymentAttempt:
    return next(payment for payment in await shop.payments() if payment.state == "succeeded")


# States


async def pause(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.pause(sub)


async def resume(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.resume(sub)


async def cancel(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.cancel(sub)


async def cancel_later(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.cancel(sub, at_period_end=True)


async def keep(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.keep(sub)


async def change_plan(shop: Business, sub: UUID) -> None:
    plan = await shop.pool.fetchval("SELECT id FROM plans WHERE tenant_id = $1 AND amount = 777", shop.tenant)
    await shop.subscriptions.change_plan(sub, plan)


async def replace_card(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.replace_payment_method(sub, new_id())


async def limit(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.limit(sub, 9)


async def collect(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.collect(sub)


OPEN = {"incomplete", "trialing", "active", "past_due", "paused", "unpaid"}


IN_ORDER: tuple[tuple[Act, set[str], str, str], ...] = (
    (limit, OPEN, "subscription_updated", "it has ended"),
    (replace_card, OPEN, "subscription_updated", "it has ended"),
    (change_plan, {"trialing", "active"}, "subscription_plan_changed", "it must be trialing or active"),
    (keep, set(), "", "The subscription has no cancellation to withdraw."),
    (cancel_later, {"trialing", "active"}, "subscription_updated", "it must be trialing or active"),
    (pause, {"active"}, "subscription_paused", "pause is not possible for a subscription that is "),
    (resume, {"paused"}, "subscription_resumed", "resume is not possible for a subscription that is "),
    (cancel, OPEN, "subscription_cancelled", "cancel is not possible for a subscription that is "),
)


async def test_what_can_be_done_in_a_state_is_done_and_told_and_all_else_is_refused(shop: Business) -> None:
    await shop.plan(777)
    subs = await in_every_state(shop)
    for act, possible, event, refusal in IN_ORDER:
        for sub in subs.values():
            if (await shop.subscription(sub)).status not in possible:
                async with shop.refusing(Conflict if act is keep else IllegalAction, refusal):
                    await act(shop, sub)
                continue
            before = len(await shop.events())
            await act(shop, sub)
            assert len(await shop.events()) == before + 1
            type_, data = await last(shop)
            assert (type_, data["subscriptionId"]) == (event, format_id(SUBSCRIPTION, sub))
            row = await shop.subscription(sub)
            assert (data["status"], data["cancelAtPeriodEnd"]) == (row.status, row.cancel_at_period_end)


async def test_only_what_is_incomplete_or_unpaid_is_collected(shop: Business) -> None:
    for status, sub in (await in_every_state(shop)).items():
        if status in {"incomplete", "unpaid"}:
            await shop.subscriptions.replace_payment_method(sub, await shop.card())
            await shop.subscriptions.collect(sub)
            await shop.settled()
            assert (await shop.subscription(sub)).status == "active"
        else:
            async with shop.refusing(IllegalAction, f"that is {status}: it must be incomplete or unpaid"):
                await shop.subscriptions.collect(sub)


async def test_who_is_not_there_cannot_be_served_nor_whose_it_is_not(shop: Business) -> None:
    sub = await shop.subscribe()
    other = await shop.another()
    for act in (pause, cancel, keep, limit, collect, replace_card):
        async with shop.refusing(NotFound, "There is no subscription sub_"):
            await act(shop, new_id())
        async with shop.refusing(NotFound, "of this tenant in this mode"):
            await act(other, sub)
    async with shop.refusing(NotFound, "There is no payment pay_"):
        await other.subscriptions.refund((await paid(shop)).id)


# Cancelling and keeping


async def test_a_cancellation_tells_why_and_leaves_nothing_owed(shop: Business) -> None:
    sub = await shop.subscribe(card=POOR_CARD)
    await shop.subscriptions.cancel(sub)
    _, data = await last(shop)
    assert (data["status"], data["reason"]) == ("canceled", "requested")
    (invoice,) = await shop.invoices(sub)
    assert invoice.status == "void"
    async with shop.refusing(IllegalAction, "a subscription that is canceled: it has ended"):
        await shop.subscriptions.cancel(sub)


async def test_a_cancellation_is_scheduled_once_and_taken_back_once(shop: Business) -> None:
    sub = await shop.subscribe()
    await shop.subscriptions.cancel(sub, at_period_end=True)
    async with shop.refusing(Conflict, "is already set to be cancelled at its period's end"):
        await shop.subscriptions.cancel(sub, at_period_end=True)
    await shop.subscriptions.keep(sub)
    async with shop.refusing(Conflict, "no cancellation to withdraw"):
        await shop.subscriptions.keep(sub)


# Plans and limits


async def test_a_change_of_plan_tells_both(shop: Business) -> None:
    before, after = await shop.plan(500_000), await shop.plan(1_500_000, Interval.YEAR)
    sub = await shop.subscribe(before)
    await shop.subscriptions.change_plan(sub, after.id)
    type_, data = await last(shop)
    assert type_ == "subscription_plan_changed"
    assert (data["planId"], data["amount"], data["interval"]) == (
        format_id(PLAN, after.id),
        1_500_000,
        "year",
    )
    assert (data["previousPlanId"], data["previousAmount"], data["previousInterval"]) == (
        format_id(PLAN, before.id),
        500_000,
        "month",
    )


async def test_a_plan_that_cannot_be_had_is_refused(shop: Business) -> None:
    plan = await shop.plan()
    sub = await shop.subscribe(plan)
    async with shop.refusing(Conflict, "The subscription already has plan plan_"):
        await shop.subscriptions.change_plan(sub, plan.id)
    async with shop.refusing(NotFound, "There is no plan plan_"):
        await shop.subscriptions.change_plan(sub, new_id())
    elsewhere = await (await shop.another()).plan()
    async with shop.refusing(NotFound, "There is no plan plan_"):
        await shop.subscriptions.change_plan(sub, elsewhere.id)
    archived = await shop.plan()
    await shop.catalog.archive_plan(archived.id)
    async with shop.refusing(Conflict, "is archived"):
        await shop.subscriptions.change_plan(sub, archived.id)


async def test_a_limit_is_never_lower_than_what_is_paid_or_owed(shop: Business) -> None:
    """Or the charge that recovers it could not be written."""
    active = await shop.subscribe(await shop.plan(interval=Interval.DAY))
    owing = await shop.subscribe(await shop.plan(interval=Interval.DAY), GOOD_CARD)
    await shop.until(START + 2 * DAY)
    await shop.subscriptions.replace_payment_method(owing, await shop.card(EXPIRED_CARD))
    await shop.until(START + 3 * DAY)
    rows = [await shop.subscription(sub) for sub in (active, owing)]
    assert [(row.status, row.cycles) for row in rows] == [("active", 4), ("past_due", 3)]
    for sub in (active, owing):
        for too_low in (3, 1):
            async with shop.refusing(InvalidInput, "max_cycles must be at least 4"):
                await shop.subscriptions.limit(sub, too_low)
        for wrong in (0, -1, 2.5, True, "4", 100_001):
            async with shop.refusing(InvalidInput, "max_cycles must be a whole number from 1 to 100000, not"):
                await shop.subscriptions.limit(sub, wrong)
        await shop.subscriptions.limit(sub, 4)
    await shop.subscriptions.replace_payment_method(owing, await shop.card())
    await shop.until(START + 5 * DAY)
    rows = [await shop.subscription(sub) for sub in (active, owing)]
    assert [(row.status, row.cycles) for row in rows] == [("expired", 4)] * 2


async def test_nothing_is_collected_from_who_is_blacklisted(shop: Business) -> None:
    sub = await shop.subscribe(card=FLAKY_CARD)
    await shop.catalog.blacklist((await shop.subscription(sub)).customer_id, "chargebacks")
    async with shop.refusing(Conflict, "is blacklisted and cannot be charged"):
        await shop.subscriptions.collect(sub)


# Refunds


async def test_a_charge_is_refunded_in_parts_until_nothing_is_left(shop: Business) -> None:
    await shop.subscribe()
    charge = await paid(shop)
    for amount, in_all in ((200_000, 200_000), (100_000, 300_000), (None, 500_000)):
        refund = await shop.subscriptions.refund(charge.id, amount)
        await shop.settled()
        type_, data = await last(shop)
        assert type_ == "subscription_payment_refunded"
        assert (data["refundId"], data["paymentId"]) == (
            format_id(PAYMENT, refund),
            format_id(PAYMENT, charge.id),
        )
        assert (data["refundedAmount"], data["paidAmount"]) == (in_all, 500_000)
        assert (await paid(shop)).refunded == in_all
    assert shop.gateway.refunded == {format_id(PAYMENT, charge.id): 500_000}
    for more in (1, None):
        async with shop.refusing(Conflict, "0 kobo of payment"):
            await shop.subscriptions.refund(charge.id, more)


async def test_what_cannot_be_refunded_is_refused(shop: Business) -> None:
    await shop.catalog.create_promo_code(NewPromoCode("GIFT", percent_off=100))
    free = await shop.subscribe(promo="GIFT")
    await shop.subscribe(card=POOR_CARD)
    nothing, failed = await shop.payments()
    assert (nothing.subscription_id, nothing.amount, failed.state) == (free, 0, "failed")
    async with shop.refusing(Conflict, "can still be refunded, not more"):
        await shop.subscriptions.refund(nothing.id)
    async with shop.refusing(Conflict, "is not a successful charge"):
        await shop.subscriptions.refund(failed.id)
    await shop.subscribe()
    charge = (await shop.payments())[-1]
    async with shop.refusing(Conflict, "can still be refunded, not 500001"):
        await shop.subscriptions.refund(charge.id, 500_001)
    for wrong in (0, -1, 0.5, 500_000.0, True, "1", 10**16):
        async with shop.refusing(InvalidInput, "A refund must be"):
            await shop.subscriptions.refund(charge.id, wrong)
    refund = await shop.subscriptions.refund(charge.id, 1)
    await shop.settled()
    async with shop.refusing(Conflict, "is not a successful charge"):
        await shop.subscriptions.refund(refund)


async def test_a_refund_that_fails_gives_back_what_can_be_refunded_and_is_not_told(shop: Business) -> None:
    sub = await shop.subscribe()
    shop.gateway.answers = lambda _order: Outcome("96")
    charge, events = await paid(shop), await shop.types()
    await shop.subscriptions.refund(charge.id, 500_000)
    await shop.settled()
    assert ((await paid(shop)).refunded, await shop.types()) == (0, events)
    shop.gateway.answers = lambda _order: None
    await shop.subscriptions.refund(charge.id, 500_000)
    await shop.settled()
    assert (await paid(shop)).refunded == 500_000
    assert (await shop.subscription(sub)).status == "active"


async def test_a_refund_needs_no_card_and_no_subscription_that_goes_on(shop: Business) -> None:
    """What was charged is given back by the charge's reference: the card may be gone, and all may have ended."""
    sub = await shop.subscribe()
    await shop.subscriptions.replace_payment_method(sub, new_id())
    await shop.subscriptions.cancel(sub)
    charge = await paid(shop)
    await shop.subscriptions.refund(charge.id)
    await shop.settled()
    assert (await paid(shop)).refunded == charge.amount


async def test_of_two_refunds_at_once_one_is_made(shop: Business) -> None:
    """Or none of what is left is given twice."""
    await shop.subscribe()
    charge = await paid(shop)
    results = await asyncio.gather(
        *(shop.subscriptions.refund(charge.id, 400_000) for _ in range(4)), return_exceptions=True
    )
    await shop.settled()
    assert sum(isinstance(result, UUID) for result in results) == 1
    assert all(isinstance(result, UUID | Conflict) for result in results)
    assert shop.gateway.refunded.total() == 400_000


async def test_while_money_is_under_way_nothing_else_is_done(shop: Business) -> None:
    await shop.plan(777)
    sub = await shop.subscribe()
    with shop.gateway.silent():
        await shop.subscriptions.refund((await paid(shop)).id, 1)
        for act in (pause, cancel, cancel_later, keep, change_plan, replace_card, limit, collect):
            async with shop.refusing(Conflict, "A refund of subscription sub_"):
                await act(shop, sub)
        async with shop.refusing(Conflict, "is in flight: try again shortly"):
            await shop.subscriptions.refund((await paid(shop)).id, 1)
        shop.clock.advance(boundary(START, Interval.MONTH, 1))
        begun = [await scanner.step() for scanner in shop.engine.scanners]
        assert begun == [1, 0, 0, 0, 0, 0], "the refund is asked for again, and the renewal waits"
    await shop.settled()
    await shop.scan()
    assert (await shop.subscription(sub)).cycles == 2
    with shop.gateway.silent():
        await shop.subscriptions.change_plan(sub, (await shop.plan()).id)
        shop.clock.advance(boundary(START, Interval.MONTH, 2))
        assert await shop.engine.scanners[1].step() == 1
        async with shop.refusing(Conflict, "A charge of subscription sub_"):
            await shop.subscriptions.cancel(sub)
    await shop.settled()
    await shop.subscriptions.cancel(sub)
