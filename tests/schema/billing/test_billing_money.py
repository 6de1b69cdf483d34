"""Every amount is a whole number of minor units beside its currency."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import asyncpg
import pytest

from schema.billing.rows import MOST_KOBO, Interval, Plan, as_array
from schema.ids import new_id
from schema.modes import Mode
from schema.queries import load
from tests.support.billing.billing_rows import START, TABLES, insert_all, rows_of
from tests.support.database_catalog import columns
from tests.support.servers.connections import SANDBOX, Connect


@pytest.fixture
async def data(connect: Connect) -> asyncpg.Connection:
    return await connect(SANDBOX)


async def test_a_fractional_amount_is_refused_not_truncated(data: asyncpg.Connection, tenant: UUID) -> None:
    """The driver takes 4999.99 for a bigint and sends 4999: a row is looked at before it is handed over."""
    plan = Plan(
        tenant, new_id(), "Gold", 500_000, "NGN", Interval.MONTH, 0, None, None, None, True, START, START
    )
    for amount in (4999.99, 500_000.0, Decimal("0.5"), Fraction(1, 3), True, "500000"):
        with pytest.raises(TypeError, match="whole number of kobo"):
            as_array([replace(plan, amount=amount)])  # type: ignore[arg-type]  # that is the point
    for text in ("4999.99", "5e5", "NaN", ""):
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await data.execute(f"SELECT '{text}'::minor_units")
    await data.execute(load("plans")["add"], as_array([replace(plan, amount=MOST_KOBO)]))
    assert await data.fetchval("SELECT amount FROM plans") == 1_000_000_000_000_000


async def test_every_amount_is_a_bigint_with_its_currency_beside_it(owner: asyncpg.Connection) -> None:
    """Of all columns there are: amounts in minor units, and columns that are not whole numbers."""
    rows = [row for row in await columns(owner, Mode.TEST.schema) if row["table"] in TABLES]
    amounts = {(row["table"], row["name"]): row["base"] for row in rows if row["type"] == "minor_units"}
    assert amounts == dict.fromkeys(
        [
            ("plans", "amount"),
            ("promo_codes", "amount_off"),
            ("invoices", "amount"),
            ("invoices", "discount"),
            ("payment_attempts", "amount"),
            ("payment_attempts", "refunded"),
        ],
        "int8",
    )
    currencies = {row["table"] for row in rows if (row["name"], row["type"]) == ("currency", "currency")}
    assert {table for table, _ in amounts} <= currencies
    inexact = {
        (row["table"], row["name"]) for row in rows if row["base"] in {"float4", "float8", "numeric", "money"}
    }
    assert inexact == {("plans", "fx_rate")}, "a rate is no amount"


async def test_the_default_currency_is_ngn(data: asyncpg.Connection, tenant: UUID) -> None:
    rows = rows_of(tenant)
    await insert_all(data, rows)
    for table in ("store_settings", "plans", "invoices", "payment_attempts"):
        assert "currency" not in rows[table]
        assert await data.fetchval(f"SELECT currency FROM {table}") == "NGN"
