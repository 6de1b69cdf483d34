"""The state of a tenant's billing from the event log alone, and from the rows. Both must be equal.

`replay` is independent of the billing engine: it applies events in order, as a webhook receiver may, without lookups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from schema.ids import CUSTOMER, INVOICE, PAYMENT, PAYMENT_METHOD, PLAN, SUBSCRIPTION, format_id
from schema.timestamps import iso_millis
from tests.support.billing.billing_world import TenantBilling

Event: TypeAlias = tuple[str, dict[str, Any]]

_ENDS = {"canceled", "expired", "incomplete_expired"}
_WAITS = {"request_card_update": "awaiting_card", "exhaust": "exhausted"}
_SUBSCRIPTION = {
    "customer": "customerId",
    "status": "status",
    "plan": "planId",
    "cycles": "cycles",
    "max_cycles": "maxCycles",
    "cancel_at_period_end": "cancelAtPeriodEnd",
    "payment_method": "paymentMethodId",
    "period_start": "currentPeriodStart",
    "period_end": "currentPeriodEnd",
}
"""Every subscription event contains the whole subscription."""


@dataclass
class Recovery:
    """The recovery of an invoice."""

    state: str
    charges: int
    failure: str
    action: str
    reason: str
    next_at: str | None


@dataclass
class Bill:
    subscription: str
    status: str
    amount: int
    discount: int
    period: tuple[str, str]
    charges: int = 0
    recovery: Recovery | None = None


@dataclass
class Charge:
    invoice: str
    state: str
    amount: int
    rail: str
    failure: str | None
    refunded: int = 0


@dataclass
class Story:
    """The state, by public id."""

    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    invoices: dict[str, Bill] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)
    refunds: dict[str, int] = field(default_factory=dict)


def replay(events: Iterable[Event]) -> Story:
    story = Story()
    for type_, data in events:
        if "status" in data:
            _subscription(story, type_, data)
        elif type_ == "invoice_created":
            story.invoices[data["invoiceId"]] = Bill(
                data["subscriptionId"],
                "open",
                data["amount"],
                data["discount"],
                (data["periodStart"], data["periodEnd"]),
            )
        elif type_ == "subscription_payment_failed":
            _failed(story, data)
        elif type_ in {"subscription_payment_success", "subscription_payment_recovered"}:
            _paid(story, data)
        elif type_ == "subscription_payment_refunded":
            story.refunds[data["refundId"]] = data["amount"]
            story.charges[data["paymentId"]].refunded = data["refundedAmount"]
        else:
            assert type_ == "subscription_payment_action_required"
    return story


def _subscription(story: Story, type_: str, data: dict[str, Any]) -> None:
    id_ = data["subscriptionId"]
    assert (type_ == "subscription_created") == (id_ not in story.subscriptions)
    story.subscriptions[id_] = {name: data[key] for name, key in _SUBSCRIPTION.items()}
    owed = [bill for bill in story.invoices.values() if bill.subscription == id_ and bill.status != "paid"]
    if data["status"] in _ENDS:
        for bill in owed:
            bill.status = "void"
            if bill.recovery and bill.recovery.state in {"waiting", "awaiting_card"}:
                bill.recovery.state, bill.recovery.next_at = "cancelled", None
    elif type_ == "subscription_unpaid":
        bill = story.invoices[data["invoiceId"]]
        assert bill.recovery is not None
        bill.status = "uncollectible"
        bill.recovery.state, bill.recovery.next_at = "exhausted", None
        bill.recovery.action, bill.recovery.reason = "exhaust", data["reason"]
        bill.recovery.failure = data["failureCode"]


def _failed(story: Story, data: dict[str, Any]) -> None:
    bill = story.invoices[data["invoiceId"]]
    bill.charges = data["attempt"]
    _charge(story, data, "failed", data["failureCode"])
    if data["nextAction"] is None:
        if bill.recovery:
            bill.recovery.failure = data["failureCode"]
        return
    bill.recovery = Recovery(
        state=_WAITS.get(data["nextAction"], "waiting"),
        charges=bill.recovery.charges + 1 if bill.recovery else 0,
        failure=data["failureCode"],
        action=data["nextAction"],
        reason=data["reason"],
        next_at=data["nextAttemptAt"],
    )


def _paid(story: Story, data: dict[str, Any]) -> None:
    bill = story.invoices[data["invoiceId"]]
    bill.status, bill.charges = "paid", data["attempt"]
    _charge(story, data, "succeeded", None)
    if bill.recovery:
        bill.recovery.charges += bill.recovery.state != "exhausted"
        bill.recovery.state, bill.recovery.next_at = "recovered", None
    subscription = story.subscriptions[bill.subscription]
    subscription["cycles"] += 1
    subscription["period_start"], subscription["period_end"] = bill.period


def _charge(story: Story, data: dict[str, Any], state: str, failure: str | None) -> None:
    assert data["paymentId"] not in story.charges, "a charge has two events"
    story.charges[data["paymentId"]] = Charge(data["invoiceId"], state, data["amount"], data["rail"], failure)


async def rows_of(billing: TenantBilling) -> Story:
    """Builds the same state from the tables, while no charge is in flight."""

    async def all_of(table: str) -> Sequence[Any]:
        found: Sequence[Any] = await billing.pool.fetch(
            f"SELECT * FROM {table} WHERE tenant_id = $1", billing.tenant
        )
        return found

    story = Story()
    for row in await all_of("subscriptions"):
        method = row["payment_method_id"]
        story.subscriptions[format_id(SUBSCRIPTION, row["id"])] = {
            "customer": format_id(CUSTOMER, row["customer_id"]),
            "status": row["status"],
            "plan": format_id(PLAN, row["plan_id"]),
            "cycles": row["cycles"],
            "max_cycles": row["max_cycles"],
            "cancel_at_period_end": row["cancel_at_period_end"],
            "payment_method": method and format_id(PAYMENT_METHOD, method),
            "period_start": iso_millis(row["current_period_start"]),
            "period_end": iso_millis(row["current_period_end"]),
        }
    for row in await all_of("invoices"):
        story.invoices[format_id(INVOICE, row["id"])] = Bill(
            format_id(SUBSCRIPTION, row["subscription_id"]),
            row["status"],
            row["amount"],
            row["discount"],
            (iso_millis(row["period_start"]), iso_millis(row["period_end"])),
            row["attempts"],
        )
    for row in await all_of("dunning_schedules"):
        story.invoices[format_id(INVOICE, row["invoice_id"])].recovery = Recovery(
            row["state"],
            row["attempts"],
            row["failure_code"],
            row["last_action"],
            row["last_reason"],
            row["next_attempt_at"] and iso_millis(row["next_attempt_at"]),
        )
    for row in await all_of("payment_attempts"):
        id_ = format_id(PAYMENT, row["id"])
        if row["kind"] == "charge":
            invoice = format_id(INVOICE, row["invoice_id"])
            failure = row["failure_code"]
            story.charges[id_] = Charge(
                invoice, row["state"], row["amount"], row["rail"], failure, row["refunded"]
            )
        elif row["state"] == "succeeded":
            story.refunds[id_] = row["amount"]
    return story
