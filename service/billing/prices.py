"""What is charged. Amounts are whole numbers of a currency's smallest unit: an exchange rate rounds half up, what a
percentage takes off is rounded down."""

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
    """What a period costs, in the currency that is charged: by the plan's own exchange rate where it has one."""
    if plan.charge_currency is None or plan.fx_rate is None:
        return Money(plan.amount, plan.currency)
    return Money(converted(plan.amount, plan.fx_rate), plan.charge_currency)


def converted(amount: int, rate: Decimal) -> int:
    return int((amount * rate).quantize(_WHOLE, ROUND_HALF_UP))


def discount(promo: PromoCode | None, full: Money) -> int:
    """What the code takes off: never more than there is, and nothing in another currency. Whether it has expired was asked when
    it was redeemed: who subscribed with it, on trial perhaps, keeps it for the first invoice.
    """
    if promo is None:
        return 0
    if promo.percent_off is not None:
        return full.amount * promo.percent_off // 100
    if promo.amount_off is not None and promo.currency == full.currency:
        return min(promo.amount_off, full.amount)
    return 0
