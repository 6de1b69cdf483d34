"""Makes the invoice of a subscription's next period, with its first charge. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from schema.billing.billing_cases import Case, NewInvoice
from schema.billing.rows import (
    Invoice,
    InvoiceStatus,
    PaymentAttempt,
    PaymentKind,
    PaymentState,
    Rail,
    Status,
)
from schema.ids import SUBSCRIPTION, format_id, new_id
from schema.timestamps import iso_millis
from service.billing import billing_events
from service.billing.decisions.periods import boundary
from service.billing.decisions.prices import discount, price

LEASE: Final = timedelta(minutes=2)
"""The lease of a charge in flight: longer than a gateway may take to answer."""


def next_period(case: Case, now: datetime) -> tuple[datetime, datetime]:
    """Returns the next period to pay: from now if none has begun, else from the end of the current one."""
    subscription, interval = case.subscription, case.plan.interval
    if subscription.status is Status.ACTIVE:
        number = subscription.period + 1
        return subscription.current_period_end, boundary(subscription.anchor, interval, number + 1)
    start = now if subscription.status is Status.INCOMPLETE else subscription.current_period_end
    return start, boundary(start, interval, 1)


def next_invoice(case: Case, now: datetime) -> NewInvoice:
    subscription = case.subscription
    start, end = next_period(case, now)
    full = price(case.plan)
    off = discount(case.promo_code, full)
    invoice = Invoice(
        tenant_id=subscription.tenant_id,
        id=new_id(),
        subscription_id=subscription.id,
        status=InvoiceStatus.OPEN,
        amount=full.amount - off,
        discount=off,
        currency=full.currency,
        idempotency_key=f"renewal_{format_id(SUBSCRIPTION, subscription.id)}_{iso_millis(start)}",
        period_start=start,
        period_end=end,
        attempts=1,
        created_at=now,
        paid_at=None,
    )
    attempt = charge(invoice, case, first_rail(case), now)
    return NewInvoice(invoice, attempt, billing_events.invoice_created(invoice, subscription))


def another_charge(invoice: Invoice, case: Case, rail: Rail, now: datetime) -> tuple[Invoice, PaymentAttempt]:
    """Returns the next charge of an owed invoice."""
    counted = replace(invoice, attempts=invoice.attempts + 1)
    return counted, charge(counted, case, rail, now)


def charge(invoice: Invoice, case: Case, rail: Rail, now: datetime) -> PaymentAttempt:
    return PaymentAttempt(
        tenant_id=invoice.tenant_id,
        id=new_id(),
        invoice_id=invoice.id,
        subscription_id=invoice.subscription_id,
        customer_id=case.subscription.customer_id,
        kind=PaymentKind.CHARGE,
        refund_of=None,
        number=invoice.attempts,
        state=PaymentState.IN_FLIGHT,
        amount=invoice.amount,
        currency=invoice.currency,
        rail=rail,
        failure_code=None,
        refunded=0,
        leased_until=now + LEASE,
        created_at=now,
        finished_at=None,
    )


def first_rail(case: Case) -> Rail:
    """Returns the first rail, in the order of the rails, that the merchant offers."""
    return next(rail for rail in Rail if rail in case.rails)
