"""How a subscription begins: from a link or without, once, for a customer who is known by e-mail."""

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
from tests.support.billing.billing_world import GOOD_CARD, START, Business, business

ADA = Contact("Ada Obi", "Ada.Obi@Example.com ", "+2348031234567")


async def session(shop: Business, promo: str | None = None, **plan: Any) -> CheckoutSession:
    """Of a link to a new plan."""
    slug = f"plan-{new_id().hex}"
    await shop.catalog.create_link((await shop.plan(**plan)).id, slug)
    opened: CheckoutSession = await shop.checkout.open(slug, promo)
    return opened


async def shown(shop: Business, id_: UUID) -> CheckoutSession:
    return await CheckoutSessions(shop.pool, shop.tenant).get(id_)


async def customers(shop: Business) -> list[str]:
    page = await Customers(shop.pool, shop.tenant).list(After(), 100)
    return [f"{customer.name} {customer.email} {customer.phone}" for customer in page.items]


# Sessions


async def test_a_session_becomes_a_subscription_once(shop: Business) -> None:
    opened = await session(shop)
    made = await shop.checkout.complete(opened.id, ADA, await shop.card())
    await shop.settled()
    assert (await shop.subscription(made.id)).status == "active"
    done = await shown(shop, opened.id)
    assert (done.status, done.subscription_id, done.completed_at) == ("completed", made.id, START)
    async with shop.refusing(Conflict, "is completed: open a new one"):
        await shop.checkout.complete(opened.id, ADA, await shop.card())
    assert len(shop.gateway.charged) == 1


async def test_of_two_who_complete_a_session_at_once_one_does(shop: Business) -> None:
    opened, card = await session(shop), await shop.card()
    results = await asyncio.gather(
        *(shop.checkout.complete(opened.id, ADA, card) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [*["Conflict"] * 3, "Subscription"]
    await shop.settled()
    assert len(shop.gateway.charged) == 1


async def test_a_session_ends_after_24_hours(shop: Business) -> None:
    """Whether or not somebody has swept it away by then."""
    opened, completed = await session(shop), await session(shop)
    await shop.checkout.complete(completed.id, ADA, await shop.card())
    shop.clock.advance(START + SESSION_FOR - timedelta(seconds=1))
    assert await shop.engine.expiry.step() == 0
    shop.clock.advance(START + timedelta(hours=24))
    for swept in (False, True):
        async with shop.refusing(Conflict, "is expired: open a new one"):
            await shop.checkout.complete(opened.id, ADA, None)
        if not swept:
            assert await shop.engine.expiry.step() == 1
    assert (await shown(shop, opened.id)).status == "expired"
    assert (await shown(shop, completed.id)).status == "completed"


async def test_a_session_that_cannot_be_completed_stays_open(shop: Business) -> None:
    opened, bad_email = await session(shop), Contact("Ada", "ada at example.com")
    async with shop.refusing(InvalidInput, "'ada at example.com' is not an e-mail address"):
        await shop.checkout.complete(opened.id, bad_email, None)
    async with shop.refusing(NotFound, "There is no checkout session chk_"):
        await shop.checkout.complete(new_id(), ADA, None)
    async with shop.refusing(NotFound, "There is no checkout session chk_"):
        await (await shop.another()).checkout.complete(opened.id, ADA, None)
    await shop.catalog.archive_plan(opened.plan_id)
    async with shop.refusing(Conflict, "is archived: no new subscription is possible"):
        await shop.checkout.complete(opened.id, ADA, None)


async def test_only_a_link_leads_to_a_checkout(shop: Business) -> None:
    opened = await session(shop)
    for slug in ("nowhere", "no\x00where", ""):
        async with shop.refusing(NotFound, "There is no payment link"):
            await shop.checkout.open(slug)
    link = await shop.pool.fetchval("SELECT slug FROM payment_links WHERE id = $1", opened.payment_link_id)
    async with shop.refusing(NotFound, "There is no payment link"):
        await (await shop.another()).checkout.open(link)
    await shop.catalog.archive_plan(opened.plan_id)
    async with shop.refusing(Conflict, "is archived"):
        await shop.checkout.open(link)


# Promo codes


async def test_a_code_is_counted_when_the_checkout_opens_and_no_more_often_than_it_may(
    shop: Business,
) -> None:
    promo = await shop.catalog.create_promo_code(NewPromoCode("TWICE", percent_off=50, max_redemptions=2))
    first = await session(shop, " twice ")
    await shop.subscribe(promo="TWICE")
    plan = await shop.plan()
    for code, why in (("TWICE", "has expired or is used up"), ("NEVER", "does not exist"), ("\x00", "exist")):
        async with shop.refusing(InvalidInput, why):
            await shop.checkout.subscribe(ADA, plan.id, None, code)
    made = await shop.checkout.complete(first.id, ADA, await shop.card())
    await shop.settled()
    assert (await shop.invoices(made.id))[0].amount == 250_000
    assert (await PromoCodes(shop.pool, shop.tenant).get(promo.id)).redemptions == 2


async def test_a_code_that_is_over_or_in_another_currency_is_refused_and_not_counted(shop: Business) -> None:
    dollars = NewPromoCode("DOLLARS", amount_off=500, currency="USD")
    await shop.catalog.create_promo_code(dollars)
    await shop.catalog.create_promo_code(
        NewPromoCode("OVER", percent_off=50, expires_at=START + timedelta(days=1))
    )
    plan = await shop.plan()
    async with shop.refusing(InvalidInput, "The promo code 'DOLLARS' is in USD, the plan is charged in NGN"):
        await shop.checkout.subscribe(ADA, plan.id, None, "dollars")
    shop.clock.advance(START + timedelta(days=1))
    async with shop.refusing(InvalidInput, "has expired or is used up"):
        await shop.checkout.subscribe(ADA, plan.id, None, "OVER")


# Customers


async def test_a_customer_is_known_again_by_e_mail_however_it_is_written(shop: Business) -> None:
    plan, card = await shop.plan(), await shop.card()
    one = await shop.checkout.subscribe(Contact("Ada Obi", "ada.obi@example.com"), plan.id, card)
    other = await shop.checkout.subscribe(ADA, plan.id, card)
    assert one.customer_id == other.customer_id
    (row,) = await customers(shop)
    assert "+234" not in row, "who types an address has not shown that it is theirs: no phone comes to it"
    elsewhere = await shop.another()
    theirs = await elsewhere.checkout.subscribe(ADA, (await elsewhere.plan()).id, card)
    assert theirs.customer_id != one.customer_id


async def test_a_customer_who_comes_several_times_at_once_is_one(shop: Business) -> None:
    plan, card = await shop.plan(), await shop.card()
    made = await asyncio.gather(*(shop.checkout.subscribe(ADA, plan.id, card) for _ in range(6)))
    await shop.settled()
    assert len({sub.customer_id for sub in made}) == 1
    assert len(await customers(shop)) == 1
    assert len(shop.gateway.charged) == 6, "what they ask for is theirs to know"


async def test_who_is_blacklisted_is_sold_nothing(shop: Business) -> None:
    opened, plan = await session(shop), await shop.plan()
    made = await shop.checkout.subscribe(ADA, plan.id, await shop.card())
    await shop.settled()
    await shop.catalog.blacklist(made.customer_id, "chargebacks")
    said = f"Customer {format_id(CUSTOMER, made.customer_id)} is blacklisted and cannot subscribe."
    async with shop.refusing(Conflict, said):
        await shop.checkout.subscribe(ADA, plan.id, None)
    async with shop.refusing(Conflict, said):
        await shop.checkout.complete(opened.id, ADA, None)


async def test_a_contact_that_is_none_is_refused(shop: Business) -> None:
    plan = await shop.plan()
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
        async with shop.refusing(InvalidInput, why):
            await shop.checkout.subscribe(contact, plan.id, None)
    async with shop.refusing(NotFound, "There is no plan plan_"):
        await shop.checkout.subscribe(ADA, new_id(), None)


# What dies on the way


async def test_a_checkout_that_nobody_completes_gives_its_promo_code_back(shop: Business) -> None:
    await shop.catalog.create_promo_code(NewPromoCode("ONCE", percent_off=50, max_redemptions=1))
    await shop.catalog.create_link((await shop.plan()).id, "gold")
    await shop.checkout.open("gold", "ONCE")
    async with shop.refusing(InvalidInput, "has expired or is used up"):
        await shop.checkout.open("gold", "ONCE")
    shop.clock.advance(START + timedelta(days=2))
    assert await shop.engine.expiry.step() == 1
    assert await shop.engine.expiry.step() == 0
    again = await shop.checkout.open("gold", "ONCE")
    assert again.promo_code_id is not None


async def test_a_card_of_the_wallet_pays_at_every_merchant_and_in_both_modes(database: Database) -> None:
    async with business(database) as shop, business(database, mode=Mode.LIVE) as live:
        card = await shop.card()
        for merchant in (shop, await shop.another(), live):
            sold = await merchant.checkout.subscribe(merchant.contact(), (await merchant.plan()).id, card)
            await merchant.engine.charges.settled()
            assert (await merchant.subscription(sold.id)).status == "active"
        charged = [*shop.gateway.orders.values(), *live.gateway.orders.values()]
        assert [order.token for order in charged] == 3 * [GOOD_CARD]
