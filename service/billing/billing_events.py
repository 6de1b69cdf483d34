"""Builds the `data` of events: the ids and amounts that a receiver needs, as the catalog (schema/event_catalog) describes them."""

from datetime import datetime
from typing import Any

from schema.billing.billing_cases import Fact
from schema.billing.rows import Invoice, PaymentAttempt, Plan, Subscription
from schema.ids import CUSTOMER, INVOICE, PAYMENT, PAYMENT_METHOD, PLAN, SUBSCRIPTION, format_id
from schema.timestamps import iso_millis
from service.billing.decisions.dunning import Decision
from service.billing.decisions.failure_codes import RESPONSE_CODES, FailureCode
from service.billing.decisions.prices import price


def of_subscription(event: str, subscription: Subscription, plan: Plan, **more: Any) -> Fact:
    cost = price(plan)
    method = subscription.payment_method_id
    return Fact(
        subscription.tenant_id,
        event,
        {
            "subscriptionId": format_id(SUBSCRIPTION, subscription.id),
            "customerId": format_id(CUSTOMER, subscription.customer_id),
            "planId": format_id(PLAN, subscription.plan_id),
            "status": subscription.status,
            "amount": cost.amount,
            "currency": cost.currency,
            "interval": plan.interval,
            "currentPeriodStart": iso_millis(subscription.current_period_start),
            "currentPeriodEnd": iso_millis(subscription.current_period_end),
            "cycles": subscription.cycles,
            "maxCycles": subscription.max_cycles,
            "cancelAtPeriodEnd": subscription.cancel_at_period_end,
            "paymentMethodId": None if method is None else format_id(PAYMENT_METHOD, method),
            **more,
        },
    )


def of_plan_change(subscription: Subscription, plan: Plan, before: Plan) -> Fact:
    cost = price(before)
    return of_subscription(
        "subscription_plan_changed",
        subscription,
        plan,
        previousPlanId=format_id(PLAN, before.id),
        previousAmount=cost.amount,
        previousCurrency=cost.currency,
        previousInterval=before.interval,
    )


def invoice_id(invoice: Invoice) -> str:
    return format_id(INVOICE, invoice.id)


def invoice_created(invoice: Invoice, subscription: Subscription) -> Fact:
    return Fact(
        invoice.tenant_id,
        "invoice_created",
        {
            "invoiceId": invoice_id(invoice),
            "subscriptionId": format_id(SUBSCRIPTION, subscription.id),
            "customerId": format_id(CUSTOMER, subscription.customer_id),
            "planId": format_id(PLAN, subscription.plan_id),
            "amount": invoice.amount,
            "currency": invoice.currency,
            "discount": invoice.discount,
            "periodStart": iso_millis(invoice.period_start),
            "periodEnd": iso_millis(invoice.period_end),
            "idempotencyKey": invoice.idempotency_key,
        },
    )


def payment_succeeded(attempt: PaymentAttempt, subscription: Subscription) -> Fact:
    return _of_payment("subscription_payment_success", attempt, subscription)


def payment_recovered(attempt: PaymentAttempt, subscription: Subscription, failure: str) -> Fact:
    return _of_payment("subscription_payment_recovered", attempt, subscription, failureCode=failure)


def payment_failed(
    attempt: PaymentAttempt, subscription: Subscription, failure: FailureCode, decision: Decision | None
) -> Fact:
    """`decision` is None for the first charge of a subscription, which no recovery follows."""
    return _of_payment(
        "subscription_payment_failed",
        attempt,
        subscription,
        failureCode=failure,
        responseCode=RESPONSE_CODES[failure],
        nextAction=decision.action if decision else None,
        nextAttemptAt=_moment(decision.at) if decision else None,
        reason=decision.reason if decision else None,
    )


def payment_refunded(refund: PaymentAttempt, charge: PaymentAttempt, subscription: Subscription) -> Fact:
    return Fact(
        refund.tenant_id,
        "subscription_payment_refunded",
        {
            "refundId": format_id(PAYMENT, refund.id),
            "paymentId": format_id(PAYMENT, charge.id),
            "invoiceId": format_id(INVOICE, charge.invoice_id),
            **_ids_of(subscription),
            "amount": refund.amount,
            "refundedAmount": charge.refunded,
            "paidAmount": charge.amount,
            "currency": refund.currency,
            "rail": charge.rail,
        },
    )


def action_required(
    invoice: Invoice, subscription: Subscription, failure: FailureCode, decision: Decision
) -> Fact:
    return Fact(
        invoice.tenant_id,
        "subscription_payment_action_required",
        {
            "invoiceId": invoice_id(invoice),
            **_ids_of(subscription),
            "amount": invoice.amount,
            "currency": invoice.currency,
            "failureCode": failure,
            "deadline": _moment(decision.at),
            "reason": decision.reason,
        },
    )


def _of_payment(event: str, attempt: PaymentAttempt, subscription: Subscription, **more: Any) -> Fact:
    return Fact(
        attempt.tenant_id,
        event,
        {
            "paymentId": format_id(PAYMENT, attempt.id),
            "invoiceId": format_id(INVOICE, attempt.invoice_id),
            **_ids_of(subscription),
            "amount": attempt.amount,
            "currency": attempt.currency,
            "rail": attempt.rail,
            "attempt": attempt.number,
            **more,
        },
    )


def _ids_of(subscription: Subscription) -> dict[str, str]:
    return {
        "subscriptionId": format_id(SUBSCRIPTION, subscription.id),
        "customerId": format_id(CUSTOMER, subscription.customer_id),
        "planId": format_id(PLAN, subscription.plan_id),
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else iso_millis(at)
