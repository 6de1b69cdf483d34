"""The page on the data model that duro began with, sentence by sentence: each test shows the sentence in its docstring.

What a sentence takes to hold (plans, refusals, races) is tested where that lives; here it is only seen to be true.
"""

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from uuid import UUID

import asyncpg
import pytest

from schema import wallet
from schema.billing.shelf import Plans
from schema.database import Database
from schema.modes import Mode
from schema.pages import After
from schema.queries import load
from schema.secret_box import SecretBox
from schema.wallet import NewMethod
from tests.support.billing import GOOD_CARD, Business, business
from tests.support.billing_rows import TABLES, insert_all, rows_of
from tests.support.catalog import columns, indexes, relations

MERCHANT_IN_CORE = {"tenants", "members", "kyc_documents", "store_configs", "customer_identities"}


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Business]:
    async with business(database) as made:
        yield made


def sql_files() -> dict[str, str]:
    """Every statement and every migration, without comments."""
    folders = [
        files("schema").joinpath(*place)
        for place in (("queries",), ("migrations", "core"), ("migrations", "data"))
    ]
    return {
        file.name: re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        for folder in folders
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    }


async def test_the_data_lives_in_one_postgres_16_database_in_three_schemas(owner: asyncpg.Connection) -> None:
    """Duro's data lives in one Postgres 16 database, partitioned into three schemas."""
    assert (await owner.fetchval("SHOW server_version")).split(".")[0] == "16"
    assert {
        relation["schema"] for relation in await relations(owner, "core", "sandbox", "live", "public")
    } == {
        "core",
        "sandbox",
        "live",
    }


async def test_core_holds_who_the_merchant_is_and_sandbox_and_live_the_business(
    owner: asyncpg.Connection,
) -> None:
    """core — tenant identity and everything mode-agnostic: who the merchant is, their team, their KYC, their branding,
    their customers' phone identities. sandbox and live — the business data, duplicated per mode. Every table below exists
    once in sandbox and once in live."""
    tables = {
        (row["schema"], row["table"])
        for row in await columns(owner, "core", "sandbox", "live")
        if row["kind"] != "v"
    }
    for name in MERCHANT_IN_CORE:
        assert {schema for schema, table in tables if table == name} == {"core"}, name
    for name in (*TABLES, "events", "webhook_deliveries"):
        assert {schema for schema, table in tables if table == name} == {"sandbox", "live"}, name


async def test_a_business_is_the_same_business_whether_it_is_testing_or_live(
    database: Database, tenant: UUID
) -> None:
    """A business is the same business whether it's testing or live."""
    for mode in Mode:
        assert (
            await database.data(mode).fetchval("SELECT name FROM tenants WHERE id = $1", tenant)
            == "Lagos Gym"
        )


async def test_there_is_no_mode_column(owner: asyncpg.Connection) -> None:
    """There is no mode column."""
    assert [row["table"] for row in await columns(owner, "sandbox", "live") if row["name"] == "mode"] == []


async def test_a_plan_a_subscription_an_invoice_exists_in_exactly_one_mode(
    database: Database, tenant: UUID
) -> None:
    """A plan, a subscription, an invoice exists in exactly one mode. Test data lives in a different schema than live data,
    full stop."""
    written = {mode: rows_of(tenant) for mode in Mode}
    for mode, rows in written.items():
        await insert_all(database.data(mode), rows)
    for mode, rows in written.items():
        for table in ("plans", "subscriptions", "invoices"):
            found = await database.data(mode).fetch(f"SELECT id FROM {table}")
            assert [row["id"] for row in found] == [rows[table]["id"]]


async def test_there_is_a_client_for_core_and_one_for_each_mode(database: Database) -> None:
    """database.core for the core schema, and database.data(mode) which returns a client pointed at sandbox or live."""
    clients = {"core": database.core, "sandbox": database.data(Mode.TEST), "live": database.data(Mode.LIVE)}
    for schema, client in clients.items():
        assert await client.fetchval("SHOW search_path") == schema
        assert await client.fetchval("SELECT current_user") == f"duro_{schema}"


async def test_a_client_of_test_mode_physically_cannot_read_live_rows(
    database: Database, tenant: UUID
) -> None:
    """A controller that holds a data('test') client physically cannot read live rows — the connection's search_path doesn't
    include the live schema. This is isolation by construction, not by convention."""
    await insert_all(database.data(Mode.LIVE), rows_of(tenant))
    test = database.data(Mode.TEST)
    assert "live" not in await test.fetchval("SHOW search_path")
    for table in TABLES:
        assert await test.fetchval(f"SELECT count(*) FROM {table}") == 0
        for statement in (
            f"SELECT count(*) FROM live.{table}",
            f"SET search_path = live; SELECT * FROM {table}",
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                await test.execute(statement)


async def test_no_query_can_forget_its_mode(database: Database, tenant: UUID) -> None:
    """The classic bug — forgetting WHERE mode = 'live' in one query out of three hundred — is impossible here, because the
    column doesn't exist. The schema boundary is the filter."""
    for name in (*TABLES, "books", "events", "deliveries"):
        if name != "idempotency_keys":
            assert not re.search(r"\bmode\b", sql_files()[f"{name}.sql"]), name
    await insert_all(database.data(Mode.LIVE), rows_of(tenant))
    for table in TABLES:
        assert await database.data(Mode.LIVE).fetchval(f"SELECT count(*) FROM {table}") == 1
        assert await database.data(Mode.TEST).fetchval(f"SELECT count(*) FROM {table}") == 0
        with pytest.raises(asyncpg.UndefinedColumnError):
            await database.data(Mode.LIVE).fetchval(f"SELECT count(*) FROM {table} WHERE mode = 'live'")


async def test_customer_identity_is_not_scoped_to_a_tenant(
    database: Database, owner: asyncpg.Connection
) -> None:
    """CustomerIdentity is deliberately not scoped to a tenant. It is the cross-merchant wallet — keyed by phone, verified
    over WhatsApp, …"""
    wallets = ("customer_identities", "saved_payment_methods", "otp_challenges")
    held = [row for row in await columns(owner, "core") if row["table"] in wallets]
    assert {row["table"] for row in held} == set(wallets)
    assert "tenant_id" not in {row["name"] for row in held}

    box = SecretBox(database.key)
    (first, _), (second, _), (other, _) = [
        await wallet.enrol(database.core, box, phone, NewMethod("card", GOOD_CARD))
        for phone in ("+2348031234567", "+2348031234567", "+2348037654321")
    ]
    assert first == second != other
    identity = await wallet.identity_of(database.core, "+2348031234567")
    assert identity
    assert identity.verified_at
    channels = await owner.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'otp_challenges_channel_check'"
    )
    assert re.findall(r"'(\w+)'", channels) == ["whatsapp"]


async def test_the_wallets_payment_methods_are_reusable_everywhere(database: Database) -> None:
    """… holding payment methods reusable everywhere: with another merchant, and in the other mode."""
    async with business(database) as shop, business(database, mode=Mode.LIVE) as live:
        card = await shop.card()
        for merchant in (shop, await shop.another(), live):
            sold = await merchant.checkout.subscribe(merchant.contact(), (await merchant.plan()).id, card)
            await merchant.engine.charges.settled()
            assert (await merchant.subscription(sold.id)).status == "active"
        charged = [*shop.gateway.orders.values(), *live.gateway.orders.values()]
        assert [order.token for order in charged] == 3 * [GOOD_CARD]


async def test_every_row_carries_a_tenant_id_and_is_found_by_it(owner: asyncpg.Connection) -> None:
    """Every row carries a tenantId so a single schema holds all tenants, partitioned by composite index."""
    tables = (*TABLES, "events", "webhook_deliveries", "webhook_attempts")
    carrying = {
        row["table"] for row in await columns(owner, "sandbox") if row["name"] == "tenant_id" and row["given"]
    }
    assert set(tables) <= carrying
    composite = [
        row for row in (await indexes(owner, "sandbox", *tables)).values() if row["columns"][0] == "tenant_id"
    ]
    assert {row["table"] for row in composite if len(row["columns"]) > 1} >= set(tables) - {
        "store_settings",
        "webhook_attempts",
    }


async def test_the_reads_of_every_request_and_every_scan_have_their_index(owner: asyncpg.Connection) -> None:
    """Reads that happen on every request or every scan are indexed to match. (tests/schema/test_billing_plans.py has the
    plans.)"""
    known = (await indexes(owner, "sandbox", *TABLES, "events", "webhook_deliveries")).values()
    for table, leading in (
        *((listed, ["tenant_id", "created_at", "id"]) for listed in LISTS),
        ("subscriptions", ["status", "current_period_end"]),
        ("dunning_schedules", ["state", "next_attempt_at"]),
        ("customers", ["phone"]),
        ("customers", ["tenant_id", "email"]),
        ("payment_attempts", ["customer_id"]),
    ):
        found = [
            row["name"]
            for row in known
            if row["table"] == table and row["columns"][: len(leading)] == leading
        ]
        assert found, f"{table} {leading}"


LISTS = (
    *("plans", "customers", "promo_codes", "payment_links", "subscriptions", "invoices"),
    *("payment_attempts", "dunning_schedules", "checkout_sessions", "events", "webhook_deliveries"),
)


async def test_pagination_is_always_keyset_never_offset(shop: Business) -> None:
    """Pagination is always keyset (cursor on [createdAt desc, id desc]), never OFFSET — so page 500 costs the same as
    page 1. What is added while somebody turns the pages neither repeats a row nor hides one."""
    for name, text in sql_files().items():
        assert not re.search(r"\bOFFSET (?!0\b)", text, re.IGNORECASE), name  # OFFSET 0 skips nothing
    for table in LISTS[:-2]:
        assert "ORDER BY created_at DESC, id DESC" in load(table)["list"]

    made = [await shop.plan() for _ in range(5)]
    newest_first = sorted(made, key=lambda plan: (plan.created_at, plan.id), reverse=True)
    assert len({plan.created_at for plan in made}) == 1, "ties are broken by id"
    plans, seen, cursor = Plans(shop.pool, shop.tenant), [], None
    for size in (2, 2, 1):
        page = await plans.list(After.read(cursor), 2)
        assert len(page.items) == size
        seen += [plan.id for plan in page.items]
        cursor = page.next_cursor
        shop.clock.advance(shop.clock.time.replace(year=2027))
        await shop.plan()
    assert cursor is None
    assert seen == [plan.id for plan in newest_first]
