"""A plan's exchange rate is stored exactly or rejected."""

from decimal import Decimal

import pytest

from schema.errors import InvalidInput
from service.billing.catalog import NewPlan
from tests.support.billing.billing_world import TenantBilling


async def test_a_rate_is_kept_to_its_last_decimal(billing: TenantBilling) -> None:
    for amount, text in ((10**9, "0.00000001"), (500_000, "1600.12345678"), (1, "9999999999"), (100, "0.50")):
        plan = await billing.plan(amount, charge_currency="USD", fx_rate=Decimal(text))
        (newest,) = await billing.pool.fetch("SELECT fx_rate FROM plans WHERE id = $1", plan.id)
        assert newest["fx_rate"] == Decimal(text)


async def test_an_invalid_or_rounded_rate_is_rejected(billing: TenantBilling) -> None:
    for rate in (
        *map(Decimal, ("NaN", "sNaN", "Infinity", "0", "-1", "1E+10", "0.000000005", "1.123456789")),
        0.1,
        2,
    ):
        with pytest.raises(InvalidInput, match="exchange rate"):
            await billing.catalog.create_plan(
                NewPlan("Gold", 500_000, "month", charge_currency="USD", fx_rate=rate)
            )
    with pytest.raises(InvalidInput, match="whole number of kobo"):
        await billing.catalog.create_plan(
            NewPlan("Gold", 4999.99, "month", charge_currency="USD", fx_rate=Decimal(2))  # type: ignore[arg-type]  # that is the point
        )
    assert await billing.pool.fetchval("SELECT count(*) FROM plans") == 0
