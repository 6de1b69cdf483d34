"""Changes existing subscriptions, for a merchant or a customer. Each action is one transaction with its event; a charge or
refund that follows is made afterwards by the charges.

While a charge or refund of a subscription is in flight, every other action on it raises Conflict.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from schema.billing import billing_cases
from schema.billing.billing_cases import Case, Changes, Overdue
from schema.billing.catalog_repositories import Plans, check_on_sale
from schema.billing.checks import MOST_CYCLES, check_amount, check_whole
from schema.billing.rows import (
    DunningState,
    InvoiceStatus,
    PaymentAttempt,
    PaymentKind,
    PaymentState,
    Plan,
    Rail,
    Status,
    Subscription,
)
from schema.billing.subscription_repositories import Payments
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import CUSTOMER, PAYMENT, PLAN, SUBSCRIPTION, format_id, new_id
from service.billing import billing_events
from service.billing.charges import ChargeProcessor
from service.billing.decisions.invoicing import LEASE, another_charge, first_rail
from service.billing.decisions.lifecycle import ENDED, Action, IllegalAction, transition
from service.billing.decisions.renewal import act, moved
from service.billing.ledger import Ledger, Unit

Decide: TypeAlias = Callable[[Case, datetime], Changes]


class SubscriptionActions:
    def __init__(self, ledger: Ledger, charges: ChargeProcessor, tenant_id: UUID) -> None:
        self._ledger = ledger
        self._cashier = charges
        self._tenant_id = tenant_id

    async def pause(self, subscription_id: UUID) -> Subscription:
        """Stops charging until it is resumed. Raises IllegalAction unless the subscription is active."""
        return await self._change(subscription_id, lambda case, now: act(case, Action.PAUSE, now))

    async def resume(self, subscription_id: UUID) -> Subscription:
        """Continues the paid period. If it is over, the next period is charged now. The pause itself is never charged."""
        return await self._change(subscription_id, _resume)

    async def cancel(self, subscription_id: UUID, *, at_period_end: bool = False) -> Subscription:
        """Cancels immediately and voids what is owed, or at the end of the paid period or trial."""
        if at_period_end:
            return await self._change(subscription_id, _cancel_later)
        return await self._change(
            subscription_id, lambda case, now: act(case, Action.CANCEL, now, reason="requested")
        )

    async def keep(self, subscription_id: UUID) -> Subscription:
        """Withdraws a cancellation at the period's end. Raises Conflict when there is none."""
        return await self._change(subscription_id, _keep)

    async def limit(self, subscription_id: UUID, max_cycles: int | None) -> Subscription:
        """Sets the total number of periods; None removes the limit. Raises InvalidInput for fewer than are paid or owed."""
        return await self._change(subscription_id, lambda case, now: _limit(case, max_cycles, now))

    async def change_plan(self, subscription_id: UUID, plan_id: UUID) -> Subscription:
        """Changes the plan from the next invoice on, without proration. The subscription keeps its limit of periods.

        Raises Conflict unless the subscription is trialing or active.
        """

        async def work(unit: Unit) -> Subscription:
            case = await self._lock(unit, subscription_id)
            plan = await Plans(unit.tx, self._tenant_id).get(plan_id)
            return await _write(unit, _change_plan(case, plan, unit.now))

        return await self._ledger.transact(work)

    async def replace_payment_method(self, subscription_id: UUID, payment_method_id: UUID) -> Subscription:
        """Replaces the payment method. Recovery that waits for a card continues immediately.

        The caller must know that the payment method is the payer's.
        """
        return await self._change(
            subscription_id, lambda case, now: _replace_payment_method(case, payment_method_id, now)
        )

    async def collect(self, subscription_id: UUID) -> None:
        """Charges what is owed now: the first invoice of an incomplete subscription, or the last one of an unpaid one.

        Raises Conflict when nothing of that kind is owed, or the customer is blacklisted.
        """

        async def work(unit: Unit) -> list[Overdue]:
            case = await self._lock(unit, subscription_id)
            begun = await unit.write(_collect(case, unit.now))
            return [Overdue(attempt, case.subscription.payment_method_id) for attempt in begun]

        await self._cashier.follow_up(await self._ledger.transact(work))

    async def refund(self, payment_id: UUID, amount: int | None = None) -> UUID:
        """Refunds part of a charge, or (None) all that is left; returns the refund's id. Raises Conflict if less is left."""
        if amount is not None:
            check_amount(amount, "A refund")

        async def work(unit: Unit) -> tuple[UUID, list[Overdue]]:
            payments = Payments(unit.tx, self._tenant_id)
            charge = await payments.get(payment_id)
            case = await self._lock(unit, charge.subscription_id)
            charge = await payments.get(payment_id)  # re-read under the lock
            wanted = charge.amount - charge.refunded if amount is None else amount
            reserved = await payments.reserve_refund(charge.id, wanted) if wanted else None
            if reserved is None:
                raise Conflict(_not_refundable(charge, wanted))
            refund = _refund(reserved, wanted, unit.now)
            begun = await unit.write(Changes(new_attempts=[refund]))
            return refund.id, [Overdue(each, case.subscription.payment_method_id) for each in begun]

        refund_id, begun = await self._ledger.transact(work)
        await self._cashier.follow_up(begun)
        return refund_id

    async def _change(self, subscription_id: UUID, decide: Decide) -> Subscription:
        async def work(unit: Unit) -> Subscription:
            case = await self._lock(unit, subscription_id)
            return await _write(unit, decide(case, unit.now))

        return await self._ledger.transact(work)

    async def _lock(self, unit: Unit, subscription_id: UUID) -> Case:
        shown = format_id(SUBSCRIPTION, subscription_id)
        unit.locked = await billing_cases.lock(unit.tx, self._tenant_id, subscription_id)
        found = await billing_cases.cases(unit.tx, unit.locked)
        if not found:
            raise NotFound(f"There is no subscription {shown} of this tenant in this mode.")
        if found[0].attempt is not None:
            raise Conflict(
                f"A {found[0].attempt.kind} of subscription {shown} is in flight: try again shortly."
            )
        return found[0]


async def _write(unit: Unit, changes: Changes) -> Subscription:
    await unit.write(changes)
    return changes.subscriptions[-1]


def _resume(case: Case, now: datetime) -> Changes:
    before = case.subscription
    event = transition(before.status, Action.RESUME).event
    after = moved(before, Action.RESUME, now)
    if before.current_period_end <= now:
        after = replace(after, anchor=now, period=-1, current_period_end=now)
    return Changes(subscriptions=[after], facts=[billing_events.of_subscription(event, after, case.plan)])


def _cancel_later(case: Case, now: datetime) -> Changes:
    _require(case, "cancel at the period's end", Status.TRIALING, Status.ACTIVE)
    if case.subscription.cancel_at_period_end:
        raise Conflict("The subscription is already set to be cancelled at its period's end.")
    return _updated(case, "cancellation_scheduled", now, cancel_at_period_end=True)


def _keep(case: Case, now: datetime) -> Changes:
    if not case.subscription.cancel_at_period_end or case.subscription.status in ENDED:
        raise Conflict("The subscription has no cancellation to withdraw.")
    return _updated(case, "cancellation_withdrawn", now, cancel_at_period_end=False)


def _limit(case: Case, max_cycles: int | None, now: datetime) -> Changes:
    if case.subscription.status in ENDED:
        raise IllegalAction(f"The subscription is {case.subscription.status}: it has ended.")
    least = max(1, case.subscription.cycles + (case.invoice is not None))
    if max_cycles is not None and check_whole(max_cycles, "max_cycles", 1, MOST_CYCLES) < least:
        raise InvalidInput(
            f"max_cycles must be at least {least}, the number of periods paid or owed, not {max_cycles}."
        )
    return _updated(case, "limit", now, max_cycles=max_cycles)


def _replace_payment_method(case: Case, payment_method_id: UUID, now: datetime) -> Changes:
    if case.subscription.status in ENDED:
        raise IllegalAction(f"The subscription is {case.subscription.status}: it has ended.")
    changes = _updated(case, "payment_method", now, payment_method_id=payment_method_id)
    if case.schedule is not None and case.schedule.state is DunningState.AWAITING_CARD:
        changes.schedules.append(
            replace(
                case.schedule,
                state=DunningState.WAITING,
                rail=Rail.CARD,
                next_attempt_at=now,
                updated_at=now,
            )
        )
    return changes


def _updated(case: Case, change: str, now: datetime, **columns: object) -> Changes:
    after = replace(case.subscription, updated_at=now, **columns)  # type: ignore[arg-type]  # columns of the row
    fact = billing_events.of_subscription("subscription_updated", after, case.plan, change=change)
    return Changes(subscriptions=[after], facts=[fact])


def _change_plan(case: Case, plan: Plan, now: datetime) -> Changes:
    _require(case, "change the plan of", Status.TRIALING, Status.ACTIVE)
    before = case.subscription
    if plan.id == before.plan_id:
        raise Conflict(f"The subscription already has plan {format_id(PLAN, plan.id)}.")
    check_on_sale(plan)
    after = replace(before, plan_id=plan.id, updated_at=now)
    if before.status is Status.ACTIVE and plan.interval is not case.plan.interval:
        after = replace(after, anchor=before.current_period_end, period=-1)
    return Changes(subscriptions=[after], facts=[billing_events.of_plan_change(after, plan, case.plan)])


def _collect(case: Case, now: datetime) -> Changes:
    _require(case, "collect what is owed for", Status.INCOMPLETE, Status.UNPAID)
    if case.invoice is None or case.invoice.status is InvoiceStatus.PAID:
        raise Conflict("Nothing is owed for the subscription.")
    if case.blacklisted:
        customer = format_id(CUSTOMER, case.subscription.customer_id)
        raise Conflict(f"Customer {customer} is blacklisted and cannot be charged.")
    counted, attempt = another_charge(case.invoice, case, first_rail(case), now)
    return Changes(invoices=[counted], new_attempts=[attempt])


def _require(case: Case, what: str, *statuses: Status) -> None:
    if case.subscription.status not in statuses:
        possible = " or ".join(statuses)
        raise IllegalAction(
            f"It is not possible to {what} a subscription that is {case.subscription.status}: it must be {possible}."
        )


def _refund(charge: PaymentAttempt, amount: int, now: datetime) -> PaymentAttempt:
    return replace(
        charge,
        id=new_id(),
        kind=PaymentKind.REFUND,
        refund_of=charge.id,
        state=PaymentState.IN_FLIGHT,
        amount=amount,
        refunded=0,
        leased_until=now + LEASE,
        created_at=now,
        finished_at=None,
    )


def _not_refundable(charge: PaymentAttempt, wanted: int) -> str:
    shown = format_id(PAYMENT, charge.id)
    if charge.kind is PaymentKind.REFUND or charge.state is not PaymentState.SUCCEEDED:
        return f"Payment {shown} is not a successful charge: there is nothing to refund."
    left = charge.amount - charge.refunded
    return f"{left} kobo of payment {shown} can still be refunded, not {wanted or 'more'}."
