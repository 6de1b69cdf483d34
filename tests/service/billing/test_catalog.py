"""A tenant's catalog is stored unchanged or rejected with one sentence, and amounts are whole."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from schema.billing.catalog_repositories import Plans, PromoCodes, store_settings
from schema.billing.rows import MOST_KOBO, Interval, Rail
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import new_id
from schema.pages import After
from service.billing.catalog import NewPlan, NewPromoCode
from service.billing.decisions.prices import Money, price
from tests.support.billing.billing_world import START, TenantBilling

GOLD = NewPlan("Gold", 500_000, "month")
IN_NAIRA = replace(GOLD, amount=1_999, currency="USD", charge_currency="NGN", fx_rate=Decimal("1600.5"))
HALF = NewPromoCode("HALF", percent_off=50)
NAIRA = NewPromoCode("NAIRA", amount_off=100_000)
RATES: tuple[Any, ...] = (
    *(Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("Infinity"), Decimal("0.000000001")),
    *(Decimal("1600.123456789"), Decimal(10) ** 10, 1600.5, 1600, "1600.5"),
)


# Plans


async def test_a_plan_is_stored_unchanged(billing: TenantBilling) -> None:
    for new in (
        GOLD,
        replace(GOLD, name=" Gold \t", interval=Interval.HOUR, amount=1, trial_days=730, max_cycles=100_000),
        replace(GOLD, amount=MOST_KOBO, currency="EUR"),
        replace(IN_NAIRA, fx_rate=Decimal("0.00065001")),
    ):
        made = await billing.catalog.create_plan(new)
        assert await Plans(billing.pool, billing.tenant).get(made.id) == made
        assert (made.name, made.active, made.created_at) == ("Gold", True, START)
    assert price(await billing.catalog.create_plan(IN_NAIRA)) == Money(3_199_400, "NGN")


async def test_an_invalid_plan_is_rejected(billing: TenantBilling) -> None:
    wrong: list[tuple[NewPlan, dict[str, Any], str]] = [
        (GOLD, {"amount": 0}, "A plan's amount must be from 1 to"),
        (GOLD, {"amount": -500_000}, "A plan's amount must be from 1 to"),
        (GOLD, {"amount": MOST_KOBO + 1}, "A plan's amount must be from 1 to"),
        (GOLD, {"amount": 5000.5}, "A plan's amount must be a whole number of kobo"),
        (GOLD, {"amount": 5000.0}, "A plan's amount must be a whole number of kobo"),
        (GOLD, {"amount": "5000"}, "A plan's amount must be a whole number of kobo"),
        (GOLD, {"amount": True}, "A plan's amount must be a whole number of kobo"),
        (GOLD, {"amount": None}, "A plan's amount must be a whole number of kobo"),
        (GOLD, {"currency": "XYZ"}, "'XYZ' is not a known currency: use one of NGN, GHS"),
        (GOLD, {"currency": "ngn"}, "is not a known currency"),
        (GOLD, {"interval": "fortnight"}, "'fortnight' is not an interval: use one of hour, day, week"),
        (GOLD, {"name": " "}, "A plan's name must have 1 to 200 printable characters"),
        (GOLD, {"name": "x" * 201}, "A plan's name must have"),
        (GOLD, {"trial_days": -1}, "A trial's number of days must be a whole number from 0 to 730"),
        (GOLD, {"trial_days": 731}, "A trial's number of days"),
        (GOLD, {"trial_days": 7.5}, "A trial's number of days"),
        (GOLD, {"max_cycles": 0}, "max_cycles must be a whole number from 1 to 100000"),
        (GOLD, {"max_cycles": 1.0}, "max_cycles must be a whole number"),
        (GOLD, {"charge_currency": "USD"}, "needs that currency and an exchange rate"),
        (GOLD, {"fx_rate": Decimal(1)}, "needs that currency and an exchange rate"),
        (IN_NAIRA, {"charge_currency": "USD"}, "in its own currency takes no exchange rate"),
        (IN_NAIRA, {"charge_currency": "???"}, "is not a known currency"),
        (IN_NAIRA, {"amount": 19.99}, "A plan's amount must be a whole number of kobo"),
        *(
            (IN_NAIRA, {"fx_rate": rate}, "An exchange rate must be a decimal number above 0")
            for rate in RATES
        ),
        (IN_NAIRA, {"fx_rate": Decimal("0.00000001")}, "A plan's amount, converted, must be from 1 to"),
        (IN_NAIRA, {"amount": MOST_KOBO}, "A plan's amount, converted, must be from 1 to"),
    ]
    for new, changes, why in wrong:
        async with billing.expect_error(InvalidInput, why):
            await billing.catalog.create_plan(replace(new, **changes))


async def test_tiny_amounts_round_half_up(billing: TenantBilling) -> None:
    cheap = replace(IN_NAIRA, amount=1, fx_rate=Decimal("0.5"))
    assert price(await billing.catalog.create_plan(cheap)).amount == 1
    async with billing.expect_error(InvalidInput, "converted, must be from 1 to"):
        await billing.catalog.create_plan(replace(cheap, fx_rate=Decimal("0.49999999")))


async def test_a_plan_in_use_is_archived_not_deleted(billing: TenantBilling) -> None:
    subscribed, linked, unused = [await billing.plan() for _ in range(3)]
    sub = await billing.subscribe(subscribed)
    await billing.catalog.create_link(linked.id, "linked")
    async with billing.expect_error(
        Conflict, "is in use (subscriptions) and cannot be deleted: archive it instead"
    ):
        await billing.catalog.delete_plan(subscribed.id)
    async with billing.expect_error(Conflict, "is in use (payment_links)"):
        await billing.catalog.delete_plan(linked.id)
    async with billing.expect_error(NotFound, "There is no plan plan_"):
        await (await billing.another()).catalog.delete_plan(unused.id)
    await billing.catalog.delete_plan(unused.id)
    for action in (billing.catalog.delete_plan, billing.catalog.archive_plan):
        async with billing.expect_error(NotFound, "There is no plan plan_"):
            await action(unused.id)
    billing.clock.advance(START + timedelta(hours=1))
    archived = await billing.catalog.archive_plan(subscribed.id)
    assert (archived.active, archived.updated_at) == (False, billing.clock.time)
    await billing.until(START + timedelta(days=40))
    assert (await billing.subscription(sub)).cycles == 2, "who has it keeps it"


# Promo codes


async def test_a_promo_code_is_stored_unchanged_and_unique(billing: TenantBilling) -> None:
    for new in (HALF, replace(NAIRA, code=" naira-5 ", expires_at=START, max_redemptions=2**31 - 1)):
        made = await billing.catalog.create_promo_code(new)
        assert await PromoCodes(billing.pool, billing.tenant).get(made.id) == made
    async with billing.expect_error(Conflict, "Promo code HALF already exists"):
        await billing.catalog.create_promo_code(replace(HALF, code="half"))
    await (await billing.another()).catalog.create_promo_code(HALF)


async def test_an_invalid_promo_code_is_rejected(billing: TenantBilling) -> None:
    wrong: list[tuple[NewPromoCode, dict[str, Any], str]] = [
        (HALF, {"code": "AB"}, "A promo code must be 3 to 40 letters"),
        (HALF, {"code": "-ABC"}, "A promo code must be 3 to 40 letters"),
        (HALF, {"code": "ÄBC"}, "A promo code must be 3 to 40 letters"),
        (HALF, {"percent_off": None}, "has either a percentage or an amount"),
        (HALF, {"amount_off": 1}, "has either a percentage or an amount"),
        (
            HALF,
            {"percent_off": 0},
            "A promo code's percentage must be a whole number from 1 to 100",
        ),
        (HALF, {"percent_off": 101}, "from 1 to 100, not 101"),
        (HALF, {"percent_off": 12.5}, "from 1 to 100, not 12.5"),
        (NAIRA, {"amount_off": 0}, "A promo code's amount must be from 1 to"),
        (NAIRA, {"amount_off": 99.5}, "A promo code's amount must be a whole number of kobo"),
        (NAIRA, {"currency": "XYZ"}, "is not a known currency"),
        (HALF, {"max_redemptions": 0}, "A promo code's maximum number of uses must be a whole number from 1"),
        (HALF, {"max_redemptions": 2**31}, "A promo code's maximum number of uses"),
        (HALF, {"max_redemptions": 1.5}, "A promo code's maximum number of uses"),
        (HALF, {"expires_at": datetime(2027, 1, 1)}, "needs a time zone"),  # noqa: DTZ001  that is the point
    ]
    for new, changes, why in wrong:
        async with billing.expect_error(InvalidInput, why):
            await billing.catalog.create_promo_code(replace(new, **changes))


# Links, settings and who is not sold to


async def test_a_link_has_one_plan_and_a_unique_slug(billing: TenantBilling) -> None:
    plan = await billing.plan()
    await billing.catalog.create_link(plan.id, "gold-2027")
    async with billing.expect_error(Conflict, "Payment link 'gold-2027' already exists"):
        await billing.catalog.create_link(plan.id, "gold-2027")
    for slug in ("g", "Gold", "gold 2027", "-gold", "g" * 81, "gold\n", "gold\x00"):
        async with billing.expect_error(InvalidInput, "A payment link's slug must be 2 to 80"):
            await billing.catalog.create_link(plan.id, slug)
    async with billing.expect_error(NotFound, "There is no plan plan_"):
        await (await billing.another()).catalog.create_link(plan.id, "gold")


async def test_a_tenant_configures_the_recovery_of_failed_charges(billing: TenantBilling) -> None:
    assert await store_settings(billing.pool, billing.tenant) is None
    for payday_aware, rails in ((False, [Rail.USSD]), (True, [Rail.TRANSFER, Rail.CARD])):
        await billing.catalog.set_up(currency="GHS", payday_aware=payday_aware, rails=rails)
        saved = await store_settings(billing.pool, billing.tenant)
        assert saved is not None
        assert (saved.currency, saved.payday_aware, saved.rails) == ("GHS", payday_aware, rails)
    invalid_rails: list[Any] = [[], [Rail.CARD, Rail.CARD], ["cheque"], [Rail.CARD, "cash"]]
    for rails in invalid_rails:
        async with billing.expect_error(InvalidInput, "Name at least one rail, each once: card, ussd"):
            await billing.catalog.set_up(payday_aware=True, rails=rails)
    async with billing.expect_error(InvalidInput, "is not a known currency"):
        await billing.catalog.set_up(currency="JPY", payday_aware=True, rails=[Rail.CARD])


async def test_the_blacklist_records_reason_and_time(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    customer = (await billing.subscription(sub)).customer_id
    for reason in ("", "   ", "x" * 201, "a\x00"):
        async with billing.expect_error(InvalidInput, "The reason must have 1 to 200 printable characters"):
            await billing.catalog.blacklist(customer, reason)
    async with billing.expect_error(NotFound, "There is no customer cus_"):
        await billing.catalog.blacklist(new_id(), "chargebacks")
    async with billing.expect_error(NotFound, "There is no customer cus_"):
        await (await billing.another()).catalog.blacklist(customer, "chargebacks")
    billing.clock.advance(START + timedelta(days=1))
    listed = await billing.catalog.blacklist(customer, f"  chargebacks{' ' * 500}")
    assert (listed.blacklist_reason, listed.blacklisted_at) == ("chargebacks", START + timedelta(days=1))


# Lists


async def test_pages_are_complete_while_rows_are_added(billing: TenantBilling) -> None:
    """Rows are newest first, and ordered by id at equal times."""
    made = [await billing.plan() for _ in range(5)]
    assert len({plan.created_at for plan in made}) == 1
    newest_first = sorted(made, key=lambda plan: plan.id, reverse=True)
    plans, seen, cursor = Plans(billing.pool, billing.tenant), [], None
    for size in (2, 2, 1):
        page = await plans.list(After.read(cursor), 2)
        assert len(page.items) == size
        seen += [plan.id for plan in page.items]
        cursor = page.next_cursor
        billing.clock.advance(billing.clock.time.replace(year=2027))
        await billing.plan()
    assert cursor is None
    assert seen == [plan.id for plan in newest_first]
