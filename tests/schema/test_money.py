"""Amounts as people read them, exact to the smallest unit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.event_catalog import catalog
from schema.money import format_money

CURRENCIES = catalog()["invoice_created"].schema["properties"]["currency"]["enum"]


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (500_000, "NGN", "₦5,000.00"),
        (5, "GHS", "GH₵0.05"),
        (0, "KES", "KSh0.00"),
        (123_456_789, "ZAR", "R1,234,567.89"),
        (99, "USD", "$0.99"),
        (100, "GBP", "£1.00"),
        (-150, "EUR", "-€1.50"),
        (-1, "NGN", "-₦0.01"),
        (9_223_372_036_854_775_807, "NGN", "₦92,233,720,368,547,758.07"),
        (5000, "XOF", "5,000 minor units of XOF"),
    ],
)
def test_money_is_written_with_its_symbol_and_two_digits(amount: int, currency: str, shown: str) -> None:
    assert format_money(amount, currency) == shown


@given(st.integers(), st.sampled_from(CURRENCIES))
def test_amounts_are_written_exactly(amount: int, currency: str) -> None:
    shown = format_money(amount, currency)
    assert re.fullmatch(r"-?\D{1,3}\d{1,3}(,\d{3})*\.\d{2}", shown), shown
    digits = re.sub(r"\D", "", shown)
    assert int(digits) == abs(amount)
    assert shown.startswith("-") == (amount < 0)


def test_each_currency_has_its_own_symbol() -> None:
    assert len({format_money(100, currency) for currency in CURRENCIES}) == len(CURRENCIES)
    assert not any("units" in format_money(100, currency) for currency in CURRENCIES)
