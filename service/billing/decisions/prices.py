"""Computes prices in whole minor units. A conversion rounds half up; a percentage discount is rounded down."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from schema.billing.rows import Plan, PromoCode

_WHOLE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class Money:
    amount: int
    currency: str


def price(plan: Plan) -> Money:
    """Returns the price of a period in the charged currency, by the plan's exchange rate if it has one."""
    if plan.charge_currency is None or plan.fx_rate is None:
        return Money(plan.amount, plan.currency)
    return Money(converted(plan.amount, plan.fx_rate), plan.charge_currency)


def converted(amount: int, rate: Decimal) -> int:
    return int((amount * rate).quantize(_WHOLE, ROUND_HALF_UP))


def discount(promo: PromoCode | None, full: Money) -> int:
    """Returns the discount of a promo code: at most the price, and zero for another currency. Expiry was checked when the
    code was redeemed: a subscription, such as one on trial, keeps it for its first invoice.
    """
    if promo is None:
        return 0
    if promo.percent_off is not None:
        return full.amount * promo.percent_off // 100
    if promo.amount_off is not None and promo.currency == full.currency:
        return min(promo.amount_off, full.amount)
    return 0
