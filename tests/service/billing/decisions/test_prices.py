"""Charged amounts are whole, rounded half up, and never negative."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.billing.rows import CURRENCIES, MOST_KOBO, Interval, Plan, PromoCode
from service.billing.decisions.prices import Money, discount, price

NOW = datetime(2026, 11, 30, 10, 30, tzinfo=UTC)
NOBODY = UUID(int=0)
PLAN = Plan(
    NOBODY, NOBODY, "Gold", 500_000, "NGN", Interval.MONTH, 0, None, None, None,
    active=True, created_at=NOW, updated_at=NOW,
)  # fmt: skip
PERCENT = PromoCode(NOBODY, NOBODY, "HALF", 50, None, None, None, 0, None, NOW)
NAIRA = replace(PERCENT, percent_off=None, amount_off=200_000, currency="NGN")

amounts = st.integers(1, MOST_KOBO)
rates = st.decimals(Decimal("0.00000001"), Decimal("9999999999.99999999"), places=8)


def charged(amount: int, rate: str) -> int:
    return price(replace(PLAN, amount=amount, charge_currency="USD", fx_rate=Decimal(rate))).amount


def test_a_plan_without_a_rate_costs_what_it_says() -> None:
    assert price(PLAN) == Money(500_000, "NGN")


@pytest.mark.parametrize(
    ("amount", "rate", "cents"),
    [
        (500_000, "0.00065", 325),
        (1, "0.5", 1),
        (3, "0.5", 2),
        (1, "0.49999999", 0),
        (7, "0.35714285", 2),
        (7, "0.35714286", 3),
        (199, "1600.5", 318_500),
        (333, "0.1", 33),
        (335, "0.1", 34),
    ],
)
def test_a_rate_rounds_half_up(amount: int, rate: str, cents: int) -> None:
    assert charged(amount, rate) == cents


@given(amounts, rates)
def test_a_rate_is_exact_to_half_a_minor_unit(amount: int, rate: Decimal) -> None:
    exact = Fraction(amount) * Fraction(rate)
    if exact <= MOST_KOBO:  # more is refused when the plan is made
        assert charged(amount, str(rate)) == floor(exact + Fraction(1, 2))


@given(
    amounts,
    st.integers(1, 100) | st.none(),
    amounts,
    st.sampled_from(CURRENCIES),
    st.sampled_from(CURRENCIES),
    st.none() | st.timedeltas(timedelta(days=-9), timedelta(days=9)),
)
def test_a_discount_is_whole_and_at_most_the_amount(
    amount: int, percent: int | None, off: int, currency: str, charged_in: str, expires: timedelta | None
) -> None:
    promo = replace(
        NAIRA,
        percent_off=percent,
        amount_off=None if percent else off,
        currency=None if percent else currency,
        expires_at=None if expires is None else NOW + expires,
    )
    taken = discount(promo, Money(amount, charged_in))
    assert isinstance(taken, int)
    assert 0 <= taken <= amount
    if percent is None and currency != charged_in:
        assert taken == 0


@pytest.mark.parametrize(
    ("promo", "full", "off"),
    [
        (None, Money(500_000, "NGN"), 0),
        (PERCENT, Money(500_000, "NGN"), 250_000),
        (PERCENT, Money(999, "USD"), 499),  # the half kobo is the merchant's
        (replace(PERCENT, percent_off=100), Money(999, "NGN"), 999),
        (replace(PERCENT, percent_off=1), Money(99, "NGN"), 0),
        (NAIRA, Money(500_000, "NGN"), 200_000),
        (NAIRA, Money(100_000, "NGN"), 100_000),
        (NAIRA, Money(500_000, "USD"), 0),
        (replace(PERCENT, expires_at=NOW), Money(500_000, "NGN"), 250_000),  # it was redeemed before that
    ],
)
def test_the_discount_of_a_promo_code(promo: PromoCode | None, full: Money, off: int) -> None:
    assert discount(promo, full) == off
