"""Formats amounts for people, in integers only: ₦5,000.00 is 500000 kobo."""

from typing import Final

_SYMBOLS: Final = {"NGN": "₦", "GHS": "GH₵", "KES": "KSh", "ZAR": "R", "USD": "$", "GBP": "£", "EUR": "€"}
"""Symbols of the catalog's currencies. Each has 100 minor units."""


def format_money(amount: int, currency: str) -> str:
    """The minor units of other currencies are unknown: `5,000 minor units of XOF`."""
    symbol = _SYMBOLS.get(currency)
    if symbol is None:
        return f"{amount:,} minor units of {currency}"
    whole, hundredths = divmod(abs(amount), 100)
    return f"{'-' if amount < 0 else ''}{symbol}{whole:,}.{hundredths:02}"
