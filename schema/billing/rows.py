"""Rows of the business tables. Each class has its table's columns in their order, so that a row is read and written whole. A
test compares the two.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Final, Self, TypeAlias
from uuid import UUID

from asyncpg import Record

CURRENCIES: Final = ("NGN", "GHS", "KES", "ZAR", "USD", "GBP", "EUR")
MOST_KOBO: Final = 1_000_000_000_000_000


Words: TypeAlias = Mapping[str, type[StrEnum]]


class Interval(StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    BIANNUAL = "biannual"
    YEAR = "year"


class Status(StrEnum):
    """Status of a subscription; service/billing/decisions/lifecycle.py has the transitions."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    UNPAID = "unpaid"
    CANCELED = "canceled"
    EXPIRED = "expired"


class InvoiceStatus(StrEnum):
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


class Rail(StrEnum):
    """Ways to charge, in the order in which they are used."""

    CARD = "card"
    USSD = "ussd"
    TRANSFER = "transfer"
    VIRTUAL_ACCOUNT = "virtual_account"
    DIRECT_DEBIT = "direct_debit"


class PaymentKind(StrEnum):
    CHARGE = "charge"
    REFUND = "refund"


class PaymentState(StrEnum):
    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class DunningState(StrEnum):
    WAITING = "waiting"
    AWAITING_CARD = "awaiting_card"
    RECOVERED = "recovered"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"


class CheckoutStatus(StrEnum):
    OPEN = "open"
    COMPLETED = "completed"
    EXPIRED = "expired"


class Row:
    """Dataclasses below begin with `tenant_id`. `WORDS` names the columns that hold an enumeration, `KOBO` the amounts."""

    __slots__ = ()
    TABLE: ClassVar[str]
    WORDS: ClassVar[Words] = {}
    KOBO: ClassVar[Sequence[str]] = ()

    @classmethod
    def read(cls, record: Record) -> Self:
        values = dict(record)
        for name, words in cls.WORDS.items():
            values[name] = words(values[name])
        return cls(**values)

    def values(self) -> tuple[Any, ...]:
        """Returns one value of the table's type. Raises TypeError for an amount that is not an int, which the driver would
        truncate silently."""
        for name in self.KOBO:
            if type(amount := getattr(self, name)) is not int and amount is not None:
                raise TypeError(f"{self.TABLE}.{name} must be a whole number of kobo, not {amount!r}")
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]  # all are dataclasses


def as_array(rows: Iterable[Row]) -> Sequence[tuple[Any, ...]]:
    """Returns the argument of a statement that takes `$1::plans[]`."""
    return [row.values() for row in rows]


@dataclass(frozen=True, slots=True)
class StoreSettings(Row):
    TABLE: ClassVar[str] = "store_settings"

    tenant_id: UUID
    currency: str
    payday_aware: bool
    rails: Sequence[str]
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Plan(Row):
    TABLE: ClassVar[str] = "plans"
    WORDS: ClassVar[Words] = {"interval": Interval}
    KOBO: ClassVar[Sequence[str]] = ("amount",)

    tenant_id: UUID
    id: UUID
    name: str
    amount: int
    currency: str
    interval: Interval
    trial_days: int
    max_cycles: int | None
    charge_currency: str | None
    fx_rate: Decimal | None
    active: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Customer(Row):
    TABLE: ClassVar[str] = "customers"

    tenant_id: UUID
    id: UUID
    name: str
    email: str | None
    phone: str | None
    blacklisted_at: datetime | None
    blacklist_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PromoCode(Row):
    TABLE: ClassVar[str] = "promo_codes"
    KOBO: ClassVar[Sequence[str]] = ("amount_off",)

    tenant_id: UUID
    id: UUID
    code: str
    percent_off: int | None
    amount_off: int | None
    currency: str | None
    max_redemptions: int | None
    redemptions: int
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentLink(Row):
    TABLE: ClassVar[str] = "payment_links"

    tenant_id: UUID
    id: UUID
    plan_id: UUID
    slug: str
    active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Subscription(Row):
    TABLE: ClassVar[str] = "subscriptions"
    WORDS: ClassVar[Words] = {"status": Status}

    tenant_id: UUID
    id: UUID
    customer_id: UUID
    plan_id: UUID
    status: Status
    payment_method_id: UUID | None
    promo_code_id: UUID | None
    anchor: datetime
    period: int
    current_period_start: datetime
    current_period_end: datetime
    cycles: int
    max_cycles: int | None
    cancel_at_period_end: bool
    held_until: datetime | None
    fault: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Invoice(Row):
    TABLE: ClassVar[str] = "invoices"
    WORDS: ClassVar[Words] = {"status": InvoiceStatus}
    KOBO: ClassVar[Sequence[str]] = ("amount", "discount")

    tenant_id: UUID
    id: UUID
    subscription_id: UUID
    status: InvoiceStatus
    amount: int
    discount: int
    currency: str
    idempotency_key: str
    period_start: datetime
    period_end: datetime
    attempts: int
    created_at: datetime
    paid_at: datetime | None


@dataclass(frozen=True, slots=True)
class PaymentAttempt(Row):
    TABLE: ClassVar[str] = "payment_attempts"
    WORDS: ClassVar[Words] = {"kind": PaymentKind, "state": PaymentState, "rail": Rail}
    KOBO: ClassVar[Sequence[str]] = ("amount", "refunded")

    tenant_id: UUID
    id: UUID
    invoice_id: UUID
    subscription_id: UUID
    customer_id: UUID
    kind: PaymentKind
    refund_of: UUID | None
    number: int
    state: PaymentState
    amount: int
    currency: str
    rail: Rail
    failure_code: str | None
    refunded: int
    leased_until: datetime | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DunningSchedule(Row):
    TABLE: ClassVar[str] = "dunning_schedules"
    WORDS: ClassVar[Words] = {"state": DunningState, "rail": Rail}

    tenant_id: UUID
    id: UUID
    invoice_id: UUID
    subscription_id: UUID
    state: DunningState
    attempts: int
    rail: Rail
    payday_aware: bool
    failure_code: str
    last_action: str
    last_reason: str
    in_flight: bool
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CheckoutSession(Row):
    TABLE: ClassVar[str] = "checkout_sessions"
    WORDS: ClassVar[Words] = {"status": CheckoutStatus}

    tenant_id: UUID
    id: UUID
    plan_id: UUID
    payment_link_id: UUID | None
    promo_code_id: UUID | None
    status: CheckoutStatus
    subscription_id: UUID | None
    created_at: datetime
    expires_at: datetime
    completed_at: datetime | None
