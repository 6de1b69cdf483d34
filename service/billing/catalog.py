"""A merchant's catalog in one mode: plans, promo codes, payment links, billing settings, blacklisted customers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from schema.billing import catalog_repositories
from schema.billing.checks import MOST_CYCLES, check_amount, check_currency, check_name, check_whole
from schema.billing.customer_repository import Customers
from schema.billing.rows import Customer, Interval, PaymentLink, Plan, PromoCode, Rail, StoreSettings
from schema.errors import InvalidInput
from schema.ids import new_id
from service.billing.decisions.prices import converted
from service.billing.ledger import Ledger, Unit

_CODE: Final = re.compile(r"[A-Z0-9][A-Z0-9_-]{2,39}")
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,79}")
MOST_TRIAL_DAYS: Final = 730
MOST_REDEMPTIONS: Final = 2**31 - 1
_SMALLEST_RATE: Final = Decimal("0.00000001")


@dataclass(frozen=True, slots=True)
class NewPlan:
    name: str
    amount: int
    """In minor units, per interval."""
    interval: Interval | str
    currency: str = "NGN"
    trial_days: int = 0
    max_cycles: int | None = None
    """The subscription ends after this many paid periods; None: never."""
    charge_currency: str | None = None
    fx_rate: Decimal | None = None
    """Units of the charge currency per unit of the price currency."""


@dataclass(frozen=True, slots=True)
class NewPromoCode:
    """A discount of the first invoice: a percentage, or an amount in a currency."""

    code: str
    percent_off: int | None = None
    amount_off: int | None = None
    currency: str = "NGN"
    max_redemptions: int | None = None
    expires_at: datetime | None = None


class MerchantCatalog:
    def __init__(self, ledger: Ledger, tenant_id: UUID) -> None:
        self._ledger = ledger
        self._tenant_id = tenant_id

    async def create_plan(self, new: NewPlan) -> Plan:
        """Raises InvalidInput."""
        interval = _interval(new.interval)
        _check_plan(new)

        async def work(unit: Unit) -> Plan:
            plan = Plan(
                tenant_id=self._tenant_id,
                id=new_id(),
                name=check_name(new.name, "A plan's name"),
                amount=new.amount,
                currency=new.currency,
                interval=interval,
                trial_days=new.trial_days,
                max_cycles=new.max_cycles,
                charge_currency=new.charge_currency,
                fx_rate=new.fx_rate,
                active=True,
                created_at=unit.now,
                updated_at=unit.now,
            )
            await catalog_repositories.Plans(unit.tx, self._tenant_id).add(plan)
            return plan

        return await self._ledger.transact(work)

    async def delete_plan(self, plan_id: UUID) -> None:
        """Raises Conflict when it is in use, NotFound."""
        await self._ledger.transact(
            lambda unit: catalog_repositories.Plans(unit.tx, self._tenant_id).delete(plan_id)
        )

    async def archive_plan(self, plan_id: UUID) -> Plan:
        return await self._ledger.transact(
            lambda unit: catalog_repositories.Plans(unit.tx, self._tenant_id).archive(plan_id, unit.now)
        )

    async def create_promo_code(self, new: NewPromoCode) -> PromoCode:
        """Raises InvalidInput; Conflict when there is such a code."""
        code = new.code.strip().upper()
        _check_promo_code(new, code)

        async def work(unit: Unit) -> PromoCode:
            promo = PromoCode(
                tenant_id=self._tenant_id,
                id=new_id(),
                code=code,
                percent_off=new.percent_off,
                amount_off=new.amount_off,
                currency=None if new.amount_off is None else new.currency,
                max_redemptions=new.max_redemptions,
                redemptions=0,
                expires_at=new.expires_at,
                created_at=unit.now,
            )
            await catalog_repositories.PromoCodes(unit.tx, self._tenant_id).add(promo)
            return promo

        return await self._ledger.transact(work)

    async def create_link(self, plan_id: UUID, slug: str) -> PaymentLink:
        """Raises InvalidInput, NotFound for the plan, Conflict when there is such a slug."""
        if not _SLUG.fullmatch(slug):
            raise InvalidInput(
                "A payment link's slug must be 2 to 80 lower-case letters, digits and inner hyphens."
            )

        async def work(unit: Unit) -> PaymentLink:
            plan = await catalog_repositories.Plans(unit.tx, self._tenant_id).get(plan_id)
            link = PaymentLink(self._tenant_id, new_id(), plan.id, slug, active=True, created_at=unit.now)
            await catalog_repositories.PaymentLinks(unit.tx, self._tenant_id).add(link)
            return link

        return await self._ledger.transact(work)

    async def set_up(self, *, currency: str = "NGN", payday_aware: bool, rails: Sequence[Rail]) -> None:
        """Sets how failed charges are recovered: whether to wait for payday, and over which rails. Raises InvalidInput."""
        if not rails or len(set(rails)) < len(rails) or not set(rails) <= set(Rail):
            raise InvalidInput(f"Name at least one rail, each once: {', '.join(Rail)}.")

        async def work(unit: Unit) -> None:
            settings = StoreSettings(
                self._tenant_id, check_currency(currency), payday_aware, rails, updated_at=unit.now
            )
            await catalog_repositories.save_store_settings(unit.tx, settings)

        await self._ledger.transact(work)

    async def blacklist(self, customer_id: UUID, reason: str) -> Customer:
        """Blacklists a customer: no further sale or charge. Raises NotFound."""
        why = check_name(reason, "The reason")
        return await self._ledger.transact(
            lambda unit: Customers(unit.tx, self._tenant_id).blacklist(customer_id, why, unit.now)
        )


def _interval(interval: str) -> Interval:
    try:
        return Interval(interval)
    except ValueError:
        raise InvalidInput(f"{interval!r} is not an interval: use one of {', '.join(Interval)}.") from None


def _check_plan(new: NewPlan) -> None:
    check_amount(new.amount, "A plan's amount")
    check_currency(new.currency)
    check_whole(new.trial_days, "A trial's number of days", 0, MOST_TRIAL_DAYS)
    if new.max_cycles is not None:
        check_whole(new.max_cycles, "max_cycles", 1, MOST_CYCLES)
    if (new.charge_currency is None) != (new.fx_rate is None):
        raise InvalidInput("A plan charged in another currency needs that currency and an exchange rate.")
    if new.charge_currency is not None and new.fx_rate is not None:
        if check_currency(new.charge_currency) == new.currency:
            raise InvalidInput("A plan charged in its own currency takes no exchange rate.")
        _check_rate(new.fx_rate)
        check_amount(converted(new.amount, new.fx_rate), "A plan's amount, converted,")


def _check_rate(rate: Any) -> None:
    exact = isinstance(rate, Decimal) and rate.is_finite() and _SMALLEST_RATE <= rate < Decimal(10) ** 10
    if not exact or rate != rate.quantize(_SMALLEST_RATE):
        raise InvalidInput(
            f"An exchange rate must be a decimal number above 0 with at most 8 decimals, not {rate!r}."
        )


def _check_promo_code(new: NewPromoCode, code: str) -> None:
    if not _CODE.fullmatch(code):
        raise InvalidInput("A promo code must be 3 to 40 letters, digits, hyphens and underscores.")
    if (new.percent_off is None) == (new.amount_off is None):
        raise InvalidInput("A promo code has either a percentage or an amount.")
    if new.percent_off is not None:
        check_whole(new.percent_off, "A promo code's percentage", 1, 100)
    if new.amount_off is not None:
        check_amount(new.amount_off, "A promo code's amount")
        check_currency(new.currency)
    if new.max_redemptions is not None:
        check_whole(new.max_redemptions, "A promo code's maximum number of uses", 1, MOST_REDEMPTIONS)
    if new.expires_at is not None and new.expires_at.tzinfo is None:
        raise InvalidInput("A promo code's expiry needs a time zone.")
