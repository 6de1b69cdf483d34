"""Each action on a subscription records its event, or fails with one sentence and changes nothing."""

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
    TenantBilling,
)
from tests.support.event_schemas import assert_conforms

DAY = timedelta(days=1)
Act: TypeAlias = Callable[[TenantBilling, UUID], Awaitable[Any]]


async def in_every_state(billing: TenantBilling) -> dict[str, UUID]:
    """One subscription in each of the nine states, by its state."""
    monthly, single = await billing.plan(), await billing.plan(interval=Interval.DAY, max_cycles=1)
    trial, long_trial = await billing.plan(trial_days=3), await billing.plan(trial_days=30)
    made = {
        "active": await billing.subscribe(monthly),
        "paused": await billing.subscribe(monthly),
        "canceled": await billing.subscribe(monthly),
        "expired": await billing.subscribe(single),
        "incomplete_expired": await billing.subscribe(monthly, POOR_CARD),
        "past_due": await billing.subscribe(trial, POOR_CARD),
        "unpaid": await billing.subscribe(trial, EXPIRED_CARD),
        "trialing": await billing.subscribe(long_trial),
    }
    await billing.subscriptions.pause(made["paused"])
    await billing.subscriptions.cancel(made["canceled"])
    await billing.until(START + 11 * DAY)
    made["incomplete"] = await billing.subscribe(monthly, POOR_CARD)
    for status, sub in made.items():
        assert (await billing.subscription(sub)).status == status
    return made


async def last(billing: TenantBilling) -> tuple[str, dict[str, Any]]:
    type_, data = (await billing.events())[-1]
    assert_conforms(type_, data)
    return type_, data


async def paid(billing: TenantBilling) -> PaymentAttempt:
    return next(payment for payment in await billing.payments() if payment.state == "succeeded")


# States


async def pause(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.pause(sub)


async def resume(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.resume(sub)


async def cancel(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.cancel(sub)


async def cancel_later(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.cancel(sub, at_period_end=True)


async def keep(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.keep(sub)


async def change_plan(billing: TenantBilling, sub: UUID) -> None:
    plan = await billing.pool.fetchval(
        "SELECT id FROM plans WHERE tenant_id = $1 AND amount = 777", billing.tenant
    )
    await billing.subscriptions.change_plan(sub, plan)


async def replace_card(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.replace_payment_method(sub, new_id())


async def limit(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.limit(sub, 9)


async def collect(billing: TenantBilling, sub: UUID) -> None:
    await billing.subscriptions.collect(sub)


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


async def test_each_state_allows_its_actions_and_rejects_others(
    billing: TenantBilling,
) -> None:
    await billing.plan(777)
    subs = await in_every_state(billing)
    for act, possible, event, refusal in IN_ORDER:
        for sub in subs.values():
            if (await billing.subscription(sub)).status not in possible:
                async with billing.expect_error(Conflict if act is keep else IllegalAction, refusal):
                    await act(billing, sub)
                continue
            before = len(await billing.events())
            await act(billing, sub)
            assert len(await billing.events()) == before + 1
            type_, data = await last(billing)
            assert (type_, data["subscriptionId"]) == (event, format_id(SUBSCRIPTION, sub))
            row = await billing.subscription(sub)
            assert (data["status"], data["cancelAtPeriodEnd"]) == (row.status, row.cancel_at_period_end)


async def test_only_incomplete_and_unpaid_subscriptions_are_collected(billing: TenantBilling) -> None:
    for status, sub in (await in_every_state(billing)).items():
        if status in {"incomplete", "unpaid"}:
            await billing.subscriptions.replace_payment_method(sub, await billing.card())
            await billing.subscriptions.collect(sub)
            await billing.settled()
            assert (await billing.subscription(sub)).status == "active"
        else:
            async with billing.expect_error(
                IllegalAction, f"that is {status}: it must be incomplete or unpaid"
            ):
                await billing.subscriptions.collect(sub)


async def test_unknown_and_foreign_subscriptions_are_not_found(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    other = await billing.another()
    for act in (pause, cancel, keep, limit, collect, replace_card):
        async with billing.expect_error(NotFound, "There is no subscription sub_"):
            await act(billing, new_id())
        async with billing.expect_error(NotFound, "of this tenant in this mode"):
            await act(other, sub)
    async with billing.expect_error(NotFound, "There is no payment pay_"):
        await other.subscriptions.refund((await paid(billing)).id)


# Cancelling and keeping


async def test_a_cancellation_has_a_reason_and_leaves_nothing_owed(billing: TenantBilling) -> None:
    sub = await billing.subscribe(card=POOR_CARD)
    await billing.subscriptions.cancel(sub)
    _, data = await last(billing)
    assert (data["status"], data["reason"]) == ("canceled", "requested")
    (invoice,) = await billing.invoices(sub)
    assert invoice.status == "void"
    async with billing.expect_error(IllegalAction, "a subscription that is canceled: it has ended"):
        await billing.subscriptions.cancel(sub)


async def test_a_cancellation_is_scheduled_and_undone_once(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    await billing.subscriptions.cancel(sub, at_period_end=True)
    async with billing.expect_error(Conflict, "is already set to be cancelled at its period's end"):
        await billing.subscriptions.cancel(sub, at_period_end=True)
    await billing.subscriptions.keep(sub)
    async with billing.expect_error(Conflict, "no cancellation to withdraw"):
        await billing.subscriptions.keep(sub)


# Plans and limits


async def test_a_plan_change_event_has_both_plans(billing: TenantBilling) -> None:
    before, after = await billing.plan(500_000), await billing.plan(1_500_000, Interval.YEAR)
    sub = await billing.subscribe(before)
    await billing.subscriptions.change_plan(sub, after.id)
    type_, data = await last(billing)
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


async def test_an_unavailable_plan_is_rejected(billing: TenantBilling) -> None:
    plan = await billing.plan()
    sub = await billing.subscribe(plan)
    async with billing.expect_error(Conflict, "The subscription already has plan plan_"):
        await billing.subscriptions.change_plan(sub, plan.id)
    async with billing.expect_error(NotFound, "There is no plan plan_"):
        await billing.subscriptions.change_plan(sub, new_id())
    elsewhere = await (await billing.another()).plan()
    async with billing.expect_error(NotFound, "There is no plan plan_"):
        await billing.subscriptions.change_plan(sub, elsewhere.id)
    archived = await billing.plan()
    await billing.catalog.archive_plan(archived.id)
    async with billing.expect_error(Conflict, "is archived"):
        await billing.subscriptions.change_plan(sub, archived.id)


async def test_a_cycle_limit_covers_paid_and_owed_cycles(billing: TenantBilling) -> None:
    """Otherwise its recovery charge could not be written."""
    active = await billing.subscribe(await billing.plan(interval=Interval.DAY))
    owing = await billing.subscribe(await billing.plan(interval=Interval.DAY), GOOD_CARD)
    await billing.until(START + 2 * DAY)
    await billing.subscriptions.replace_payment_method(owing, await billing.card(EXPIRED_CARD))
    await billing.until(START + 3 * DAY)
    rows = [await billing.subscription(sub) for sub in (active, owing)]
    assert [(row.status, row.cycles) for row in rows] == [("active", 4), ("past_due", 3)]
    for sub in (active, owing):
        for too_low in (3, 1):
            async with billing.expect_error(InvalidInput, "max_cycles must be at least 4"):
                await billing.subscriptions.limit(sub, too_low)
        for wrong in (0, -1, 2.5, True, "4", 100_001):
            async with billing.expect_error(
                InvalidInput, "max_cycles must be a whole number from 1 to 100000, not"
            ):
                await billing.subscriptions.limit(sub, wrong)
        await billing.subscriptions.limit(sub, 4)
    await billing.subscriptions.replace_payment_method(owing, await billing.card())
    await billing.until(START + 5 * DAY)
    rows = [await billing.subscription(sub) for sub in (active, owing)]
    assert [(row.status, row.cycles) for row in rows] == [("expired", 4)] * 2


async def test_a_blacklisted_customer_is_not_collected(billing: TenantBilling) -> None:
    sub = await billing.subscribe(card=FLAKY_CARD)
    await billing.catalog.blacklist((await billing.subscription(sub)).customer_id, "chargebacks")
    async with billing.expect_error(Conflict, "is blacklisted and cannot be charged"):
        await billing.subscriptions.collect(sub)


# Refunds


async def test_a_charge_is_refunded_in_parts_until_nothing_is_left(billing: TenantBilling) -> None:
    await billing.subscribe()
    charge = await paid(billing)
    for amount, in_all in ((200_000, 200_000), (100_000, 300_000), (None, 500_000)):
        refund = await billing.subscriptions.refund(charge.id, amount)
        await billing.settled()
        type_, data = await last(billing)
        assert type_ == "subscription_payment_refunded"
        assert (data["refundId"], data["paymentId"]) == (
            format_id(PAYMENT, refund),
            format_id(PAYMENT, charge.id),
        )
        assert (data["refundedAmount"], data["paidAmount"]) == (in_all, 500_000)
        assert (await paid(billing)).refunded == in_all
    assert billing.gateway.refunded == {format_id(PAYMENT, charge.id): 500_000}
    for more in (1, None):
        async with billing.expect_error(Conflict, "0 kobo of payment"):
            await billing.subscriptions.refund(charge.id, more)


async def test_an_impossible_refund_is_rejected(billing: TenantBilling) -> None:
    await billing.catalog.create_promo_code(NewPromoCode("GIFT", percent_off=100))
    free = await billing.subscribe(promo="GIFT")
    await billing.subscribe(card=POOR_CARD)
    nothing, failed = await billing.payments()
    assert (nothing.subscription_id, nothing.amount, failed.state) == (free, 0, "failed")
    async with billing.expect_error(Conflict, "can still be refunded, not more"):
        await billing.subscriptions.refund(nothing.id)
    async with billing.expect_error(Conflict, "is not a successful charge"):
        await billing.subscriptions.refund(failed.id)
    await billing.subscribe()
    charge = (await billing.payments())[-1]
    async with billing.expect_error(Conflict, "can still be refunded, not 500001"):
        await billing.subscriptions.refund(charge.id, 500_001)
    for wrong in (0, -1, 0.5, 500_000.0, True, "1", 10**16):
        async with billing.expect_error(InvalidInput, "A refund must be"):
            await billing.subscriptions.refund(charge.id, wrong)
    refund = await billing.subscriptions.refund(charge.id, 1)
    await billing.settled()
    async with billing.expect_error(Conflict, "is not a successful charge"):
        await billing.subscriptions.refund(refund)


async def test_a_failed_refund_restores_the_refundable_amount_without_event(
    billing: TenantBilling,
) -> None:
    sub = await billing.subscribe()
    billing.gateway.answers = lambda _order: Outcome("96")
    charge, events = await paid(billing), await billing.types()
    await billing.subscriptions.refund(charge.id, 500_000)
    await billing.settled()
    assert ((await paid(billing)).refunded, await billing.types()) == (0, events)
    billing.gateway.answers = lambda _order: None
    await billing.subscriptions.refund(charge.id, 500_000)
    await billing.settled()
    assert (await paid(billing)).refunded == 500_000
    assert (await billing.subscription(sub)).status == "active"


async def test_a_refund_needs_neither_card_nor_running_subscription(billing: TenantBilling) -> None:
    """It uses the charge's reference, so the card may be removed and the subscription ended."""
    sub = await billing.subscribe()
    await billing.subscriptions.replace_payment_method(sub, new_id())
    await billing.subscriptions.cancel(sub)
    charge = await paid(billing)
    await billing.subscriptions.refund(charge.id)
    await billing.settled()
    assert (await paid(billing)).refunded == charge.amount


async def test_one_of_two_concurrent_refunds_is_made(billing: TenantBilling) -> None:
    """The remaining amount is not refunded twice."""
    await billing.subscribe()
    charge = await paid(billing)
    results = await asyncio.gather(
        *(billing.subscriptions.refund(charge.id, 400_000) for _ in range(4)), return_exceptions=True
    )
    await billing.settled()
    assert sum(isinstance(result, UUID) for result in results) == 1
    assert all(isinstance(result, UUID | Conflict) for result in results)
    assert billing.gateway.refunded.total() == 400_000


async def test_a_payment_in_flight_blocks_every_action(billing: TenantBilling) -> None:
    await billing.plan(777)
    sub = await billing.subscribe()
    with billing.gateway.silent():
        await billing.subscriptions.refund((await paid(billing)).id, 1)
        for act in (pause, cancel, cancel_later, keep, change_plan, replace_card, limit, collect):
            async with billing.expect_error(Conflict, "A refund of subscription sub_"):
                await act(billing, sub)
        async with billing.expect_error(Conflict, "is in flight: try again shortly"):
            await billing.subscriptions.refund((await paid(billing)).id, 1)
        billing.clock.advance(boundary(START, Interval.MONTH, 1))
        begun = [await scanner.step() for scanner in billing.engine.scanners]
        assert begun == [1, 0, 0, 0, 0, 0], "the refund is asked for again, and the renewal waits"
    await billing.settled()
    await billing.scan()
    assert (await billing.subscription(sub)).cycles == 2
    with billing.gateway.silent():
        await billing.subscriptions.change_plan(sub, (await billing.plan()).id)
        billing.clock.advance(boundary(START, Interval.MONTH, 2))
        assert await billing.engine.scanners[1].step() == 1
        async with billing.expect_error(Conflict, "A charge of subscription sub_"):
            await billing.subscriptions.cancel(sub)
    await billing.settled()
    await billing.subscriptions.cancel(sub)
