"""Amounts for people, by whole numbers alone: ₦5,000.00 is 500000 kobo."""

from typing import Final

_SYMBOLS: Final = {"NGN": "₦", "GHS": "GH₵", "KES": "KSh", "ZAR": "R", "USD": "$", "GBP": "£", "EUR": "€"}
"""Of the catalog's currencies. Each has a hundred of its smallest unit."""


def format_money(amount: int, currency: str) -> str:
    """Of another currency it is not known into what it divides: `5,000 smallest units of XOF`."""
    symbol = _SYMBOLS.get(currency)
    if symbol is None:
        return f"{amount:,} smallest units of {currency}"
    whole, hundredths = divmod(abs(amount), 100)
    return f"{'-' if amount < 0 else ''}{symbol}{whole:,}.{hundredths:02}"
