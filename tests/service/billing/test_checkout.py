"""A checkout, with or without a link, creates one subscription for a customer recognised by e-mail."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from schema.billing.catalog_repositories import PromoCodes
from schema.billing.customer_repository import Customers
from schema.billing.rows import CheckoutSession
from schema.billing.subscription_repositories import CheckoutSessions
from schema.connections.database import Database
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import CUSTOMER, format_id, new_id
from schema.modes import Mode
from schema.pages import After
from service.billing.catalog import NewPromoCode
from service.billing.checkout import SESSION_FOR, Contact
from tests.support.billing.billing_world import GOOD_CARD, START, TenantBilling, tenant_billing

ADA = Contact("Ada Obi", "Ada.Obi@Example.com ", "+2348031234567")


async def session(billing: TenantBilling, promo: str | None = None, **plan: Any) -> CheckoutSession:
    """Of a link to a new plan."""
    slug = f"plan-{new_id().hex}"
    await billing.catalog.create_link((await billing.plan(**plan)).id, slug)
    opened: CheckoutSession = await billing.checkout.open(slug, promo)
    return opened


async def shown(billing: TenantBilling, id_: UUID) -> CheckoutSession:
    return await CheckoutSessions(billing.pool, billing.tenant).get(id_)


async def customers(billing: TenantBilling) -> list[str]:
    page = await Customers(billing.pool, billing.tenant).list(After(), 100)
    return [f"{customer.name} {customer.email} {customer.phone}" for customer in page.items]


# Sessions


async def test_a_session_becomes_a_subscription_once(billing: TenantBilling) -> None:
    opened = await session(billing)
    made = await billing.checkout.complete(opened.id, ADA, await billing.card())
    await billing.settled()
    assert (await billing.subscription(made.id)).status == "active"
    done = await shown(billing, opened.id)
    assert (done.status, done.subscription_id, done.completed_at) == ("completed", made.id, START)
    async with billing.expect_error(Conflict, "is completed: open a new one"):
        await billing.checkout.complete(opened.id, ADA, await billing.card())
    assert len(billing.gateway.charged) == 1


async def test_a_session_is_completed_once_by_concurrent_calls(billing: TenantBilling) -> None:
    opened, card = await session(billing), await billing.card()
    results = await asyncio.gather(
        *(billing.checkout.complete(opened.id, ADA, card) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [*["Conflict"] * 3, "Subscription"]
    await billing.settled()
    assert len(billing.gateway.charged) == 1


async def test_a_session_ends_after_24_hours(billing: TenantBilling) -> None:
    """It does not matter whether the sweeper has run."""
    opened, completed = await session(billing), await session(billing)
    await billing.checkout.complete(completed.id, ADA, await billing.card())
    billing.clock.advance(START + SESSION_FOR - timedelta(seconds=1))
    assert await billing.engine.expiry.step() == 0
    billing.clock.advance(START + timedelta(hours=24))
    for swept in (False, True):
        async with billing.expect_error(Conflict, "is expired: open a new one"):
            await billing.checkout.complete(opened.id, ADA, None)
        if not swept:
            assert await billing.engine.expiry.step() == 1
    assert (await shown(billing, opened.id)).status == "expired"
    assert (await shown(billing, completed.id)).status == "completed"


async def test_a_failed_completion_leaves_the_session_open(billing: TenantBilling) -> None:
    opened, bad_email = await session(billing), Contact("Ada", "ada at example.com")
    async with billing.expect_error(InvalidInput, "'ada at example.com' is not an e-mail address"):
        await billing.checkout.complete(opened.id, bad_email, None)
    async with billing.expect_error(NotFound, "There is no checkout session chk_"):
        await billing.checkout.complete(new_id(), ADA, None)
    async with billing.expect_error(NotFound, "There is no checkout session chk_"):
        await (await billing.another()).checkout.complete(opened.id, ADA, None)
    await billing.catalog.archive_plan(opened.plan_id)
    async with billing.expect_error(Conflict, "is archived: no new subscription is possible"):
        await billing.checkout.complete(opened.id, ADA, None)


async def test_only_a_link_leads_to_a_checkout(billing: TenantBilling) -> None:
    opened = await session(billing)
    for slug in ("nowhere", "no\x00where", ""):
        async with billing.expect_error(NotFound, "There is no payment link"):
            await billing.checkout.open(slug)
    link = await billing.pool.fetchval("SELECT slug FROM payment_links WHERE id = $1", opened.payment_link_id)
    async with billing.expect_error(NotFound, "There is no payment link"):
        await (await billing.another()).checkout.open(link)
    await billing.catalog.archive_plan(opened.plan_id)
    async with billing.expect_error(Conflict, "is archived"):
        await billing.checkout.open(link)


# Promo codes


async def test_a_promo_code_is_counted_at_checkout_up_to_its_limit(
    billing: TenantBilling,
) -> None:
    promo = await billing.catalog.create_promo_code(NewPromoCode("TWICE", percent_off=50, max_redemptions=2))
    first = await session(billing, " twice ")
    await billing.subscribe(promo="TWICE")
    plan = await billing.plan()
    for code, why in (("TWICE", "has expired or is used up"), ("NEVER", "does not exist"), ("\x00", "exist")):
        async with billing.expect_error(InvalidInput, why):
            await billing.checkout.subscribe(ADA, plan.id, None, code)
    made = await billing.checkout.complete(first.id, ADA, await billing.card())
    await billing.settled()
    assert (await billing.invoices(made.id))[0].amount == 250_000
    assert (await PromoCodes(billing.pool, billing.tenant).get(promo.id)).redemptions == 2


async def test_an_unusable_promo_code_is_rejected_and_not_counted(
    billing: TenantBilling,
) -> None:
    dollars = NewPromoCode("DOLLARS", amount_off=500, currency="USD")
    await billing.catalog.create_promo_code(dollars)
    await billing.catalog.create_promo_code(
        NewPromoCode("OVER", percent_off=50, expires_at=START + timedelta(days=1))
    )
    plan = await billing.plan()
    async with billing.expect_error(
        InvalidInput, "The promo code 'DOLLARS' is in USD, the plan is charged in NGN"
    ):
        await billing.checkout.subscribe(ADA, plan.id, None, "dollars")
    billing.clock.advance(START + timedelta(days=1))
    async with billing.expect_error(InvalidInput, "has expired or is used up"):
        await billing.checkout.subscribe(ADA, plan.id, None, "OVER")


# Customers


async def test_a_customer_is_recognised_by_e_mail_in_any_case(billing: TenantBilling) -> None:
    plan, card = await billing.plan(), await billing.card()
    one = await billing.checkout.subscribe(Contact("Ada Obi", "ada.obi@example.com"), plan.id, card)
    other = await billing.checkout.subscribe(ADA, plan.id, card)
    assert one.customer_id == other.customer_id
    (row,) = await customers(billing)
    assert "+234" not in row, "who types an address has not shown that it is theirs: no phone comes to it"
    elsewhere = await billing.another()
    theirs = await elsewhere.checkout.subscribe(ADA, (await elsewhere.plan()).id, card)
    assert theirs.customer_id != one.customer_id


async def test_concurrent_checkouts_create_one_customer(billing: TenantBilling) -> None:
    plan, card = await billing.plan(), await billing.card()
    made = await asyncio.gather(*(billing.checkout.subscribe(ADA, plan.id, card) for _ in range(6)))
    await billing.settled()
    assert len({sub.customer_id for sub in made}) == 1
    assert len(await customers(billing)) == 1
    assert len(billing.gateway.charged) == 6, "what they ask for is theirs to know"


async def test_a_blacklisted_customer_cannot_buy(billing: TenantBilling) -> None:
    opened, plan = await session(billing), await billing.plan()
    made = await billing.checkout.subscribe(ADA, plan.id, await billing.card())
    await billing.settled()
    await billing.catalog.blacklist(made.customer_id, "chargebacks")
    said = f"Customer {format_id(CUSTOMER, made.customer_id)} is blacklisted and cannot subscribe."
    async with billing.expect_error(Conflict, said):
        await billing.checkout.subscribe(ADA, plan.id, None)
    async with billing.expect_error(Conflict, said):
        await billing.checkout.complete(opened.id, ADA, None)


async def test_an_invalid_contact_is_rejected(billing: TenantBilling) -> None:
    plan = await billing.plan()
    for contact, why in (
        (Contact("", "a@example.com"), "A customer's name must have 1 to 200 printable characters"),
        (Contact("A" * 201, "a@example.com"), "A customer's name must have"),
        (Contact("A\x00", "a@example.com"), "A customer's name must have"),
        (Contact("Ada", "a@@example.com"), "is not an e-mail address"),
        (Contact("Ada", "a@example.com\x00"), "is not an e-mail address"),
        (Contact("Ada", f"{'a' * 250}@example.com"), "is not an e-mail address"),
        (Contact("Ada", "a@example.com", "08031234567"), "Invalid phone number"),
        (Contact("Ada", "a@example.com", "+0"), "Invalid phone number"),
    ):
        async with billing.expect_error(InvalidInput, why):
            await billing.checkout.subscribe(contact, plan.id, None)
    async with billing.expect_error(NotFound, "There is no plan plan_"):
        await billing.checkout.subscribe(ADA, new_id(), None)


# What dies on the way


async def test_an_expired_checkout_releases_its_promo_code(billing: TenantBilling) -> None:
    await billing.catalog.create_promo_code(NewPromoCode("ONCE", percent_off=50, max_redemptions=1))
    await billing.catalog.create_link((await billing.plan()).id, "gold")
    await billing.checkout.open("gold", "ONCE")
    async with billing.expect_error(InvalidInput, "has expired or is used up"):
        await billing.checkout.open("gold", "ONCE")
    billing.clock.advance(START + timedelta(days=2))
    assert await billing.engine.expiry.step() == 1
    assert await billing.engine.expiry.step() == 0
    again = await billing.checkout.open("gold", "ONCE")
    assert again.promo_code_id is not None


async def test_a_wallet_card_pays_for_every_tenant_and_mode(database: Database) -> None:
    async with tenant_billing(database) as billing, tenant_billing(database, mode=Mode.LIVE) as live:
        card = await billing.card()
        for merchant in (billing, await billing.another(), live):
            sold = await merchant.checkout.subscribe(merchant.contact(), (await merchant.plan()).id, card)
            await merchant.engine.charges.settled()
            assert (await merchant.subscription(sold.id)).status == "active"
        charged = [*billing.gateway.orders.values(), *live.gateway.orders.values()]
        assert [order.token for order in charged] == 3 * [GOOD_CARD]
