"""Begins subscriptions.

    payment link ──► checkout session ──► complete(): customer (new, or found by e-mail) + subscription, in one transaction
                                             │
                                             ├─ plan with a trial:  incomplete ──start_trial──► trialing
                                             └─ without:            incomplete, first invoice, first charge; paid: active

If the first charge fails, the subscription stays incomplete. SubscriptionActions.collect retries until the window is over.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from schema.billing.billing_cases import Case, Changes, Overdue
from schema.billing.catalog_repositories import PaymentLinks, Plans, PromoCodes, check_on_sale, store_settings
from schema.billing.checks import check_email, check_name
from schema.billing.customer_repository import Customers
from schema.billing.rows import (
    CheckoutSession,
    CheckoutStatus,
    Customer,
    Plan,
    PromoCode,
    Status,
    Subscription,
)
from schema.billing.subscription_repositories import CheckoutSessions
from schema.core.phones import normalise_phone
from schema.errors import Conflict, InvalidInput
from schema.ids import CHECKOUT, CUSTOMER, format_id, new_id
from service.billing import billing_events
from service.billing.charges import ChargeProcessor
from service.billing.decisions.invoicing import next_invoice
from service.billing.decisions.lifecycle import Action, transition
from service.billing.decisions.prices import price
from service.billing.decisions.renewal import moved
from service.billing.ledger import Ledger, Unit, Work

SESSION_FOR: Final = timedelta(hours=24)
COMPLETE_WITHIN: Final = timedelta(hours=23)
"""How long an incomplete subscription waits for its first payment."""


@dataclass(frozen=True, slots=True)
class Contact:
    name: str
    email: str
    """Identifies a customer of the tenant."""
    phone: str | None = None


class Checkout:
    def __init__(self, ledger: Ledger, charges: ChargeProcessor, tenant_id: UUID) -> None:
        self._ledger = ledger
        self._cashier = charges
        self._tenant_id = tenant_id

    async def open(self, slug: str, promo: str | None = None) -> CheckoutSession:
        """Opens a session from a payment link and counts a use of the promo code. Raises NotFound, InvalidInput."""

        async def work(unit: Unit) -> CheckoutSession:
            link = await PaymentLinks(unit.tx, self._tenant_id).by_slug(slug)
            plan = await self._plan_on_sale(unit, link.plan_id)
            code = None if promo is None else await self._redeem(unit, promo, plan)
            session = CheckoutSession(
                tenant_id=self._tenant_id,
                id=new_id(),
                plan_id=plan.id,
                payment_link_id=link.id,
                promo_code_id=None if code is None else code.id,
                status=CheckoutStatus.OPEN,
                subscription_id=None,
                created_at=unit.now,
                expires_at=unit.now + SESSION_FOR,
                completed_at=None,
            )
            await CheckoutSessions(unit.tx, self._tenant_id).add(session)
            return session

        return await self._ledger.transact(work)

    async def complete(
        self, session_id: UUID, contact: Contact, payment_method_id: UUID | None
    ) -> Subscription:
        """Returns the subscription before its first charge is answered.

        The caller must know that the payment method is the payer's: a merchant has no access to the wallet.
        Raises Conflict for a session that is over and for a blacklisted customer, InvalidInput, NotFound.
        """

        async def work(unit: Unit) -> tuple[Subscription, list[Overdue]]:
            sessions = CheckoutSessions(unit.tx, self._tenant_id)
            session = await sessions.lock(session_id)
            _check_open(session, unit)
            plan = await self._plan_on_sale(unit, session.plan_id)
            code = None
            if session.promo_code_id is not None:
                code = await PromoCodes(unit.tx, self._tenant_id).get(session.promo_code_id)
            customer = await self._customer(unit, contact)
            made, begun = await self._begin(unit, customer, plan, code, payment_method_id)
            await sessions.complete(session.id, made.id, unit.now)
            return made, begun

        return await self._finish(work)

    async def subscribe(
        self, contact: Contact, plan_id: UUID, payment_method_id: UUID | None, promo: str | None = None
    ) -> Subscription:
        """Subscribes without a session, for an API. Raises the errors of `complete`."""

        async def work(unit: Unit) -> tuple[Subscription, list[Overdue]]:
            plan = await self._plan_on_sale(unit, plan_id)
            code = None if promo is None else await self._redeem(unit, promo, plan)
            customer = await self._customer(unit, contact)
            return await self._begin(unit, customer, plan, code, payment_method_id)

        return await self._finish(work)

    async def _finish(self, work: Work[tuple[Subscription, list[Overdue]]]) -> Subscription:
        made, begun = await self._ledger.transact(work)
        await self._cashier.follow_up(begun)
        return made

    async def _plan_on_sale(self, unit: Unit, plan_id: UUID) -> Plan:
        plan = await Plans(unit.tx, self._tenant_id).get(plan_id)
        check_on_sale(plan)
        return plan

    async def _redeem(self, unit: Unit, code: str, plan: Plan) -> PromoCode:
        code = code.strip().upper()
        if not code.isprintable():  # PostgreSQL cannot store it either
            raise InvalidInput(f"The promo code {code!r} does not exist.")
        promo = await PromoCodes(unit.tx, self._tenant_id).redeem(code, unit.now)
        if promo.currency is not None and promo.currency != price(plan).currency:
            raise InvalidInput(
                f"The promo code {promo.code!r} is in {promo.currency}, the plan is charged in {price(plan).currency}."
            )
        return promo

    async def _customer(self, unit: Unit, contact: Contact) -> Customer:
        customer = await Customers(unit.tx, self._tenant_id).reuse(
            Customer(
                tenant_id=self._tenant_id,
                id=new_id(),
                name=check_name(contact.name, "A customer's name"),
                email=check_email(contact.email),
                phone=None if contact.phone is None else normalise_phone(contact.phone),
                blacklisted_at=None,
                blacklist_reason=None,
                created_at=unit.now,
                updated_at=unit.now,
            )
        )
        if customer.blacklisted_at is not None:
            raise Conflict(
                f"Customer {format_id(CUSTOMER, customer.id)} is blacklisted and cannot subscribe."
            )
        return customer

    async def _begin(
        self,
        unit: Unit,
        customer: Customer,
        plan: Plan,
        promo: PromoCode | None,
        payment_method_id: UUID | None,
    ) -> tuple[Subscription, list[Overdue]]:
        settings = await store_settings(unit.tx, self._tenant_id)
        made = _incomplete(unit, customer, plan, promo, payment_method_id)
        case = Case(made, plan, False, promo, settings, None, None, None, None)
        changes = begin(case, unit)
        begun = await unit.write(changes)
        return changes.new_subscriptions[0], [Overdue(attempt, payment_method_id) for attempt in begun]


def begin(case: Case, unit: Unit) -> Changes:
    """Starts the plan's trial, or makes the first charge."""
    made = case.subscription
    created = billing_events.of_subscription("subscription_created", made, case.plan)
    if not case.plan.trial_days:
        invoice = next_invoice(case, unit.now)
        return Changes(
            new_subscriptions=[replace(made, promo_code_id=None)], new_invoices=[invoice], facts=[created]
        )
    event = transition(made.status, Action.START_TRIAL).event
    ends = unit.now + timedelta(days=case.plan.trial_days)
    trialing = replace(moved(made, Action.START_TRIAL, unit.now), current_period_end=ends)
    started = billing_events.of_subscription(event, trialing, case.plan, change="trial_started")
    return Changes(new_subscriptions=[trialing], facts=[created, started])


def _incomplete(
    unit: Unit, customer: Customer, plan: Plan, promo: PromoCode | None, payment_method_id: UUID | None
) -> Subscription:
    return Subscription(
        tenant_id=customer.tenant_id,
        id=new_id(),
        customer_id=customer.id,
        plan_id=plan.id,
        status=Status.INCOMPLETE,
        payment_method_id=payment_method_id,
        promo_code_id=None if promo is None else promo.id,
        anchor=unit.now,
        period=0,
        current_period_start=unit.now,
        current_period_end=unit.now + COMPLETE_WITHIN,
        cycles=0,
        max_cycles=plan.max_cycles,
        cancel_at_period_end=False,
        held_until=None,
        fault=None,
        created_at=unit.now,
        updated_at=unit.now,
        ended_at=None,
    )


def _check_open(session: CheckoutSession, unit: Unit) -> None:
    if session.status is CheckoutStatus.OPEN and session.expires_at > unit.now:
        return
    state = "completed" if session.status is CheckoutStatus.COMPLETED else "expired"
    raise Conflict(f"Checkout session {format_id(CHECKOUT, session.id)} is {state}: open a new one.")
