"""Checkout sessions, subscriptions, invoices, payment attempts and dunning schedules of one tenant."""

from datetime import datetime
from uuid import UUID

from schema.billing.repository import Repository
from schema.billing.rows import (
    CheckoutSession,
    DunningSchedule,
    Invoice,
    PaymentAttempt,
    Subscription,
    as_array,
)
from schema.connections.database import Executor
from schema.ids import CHECKOUT, DUNNING, INVOICE, PAYMENT, SUBSCRIPTION
from schema.pages import After, Page, page
from schema.queries import load

_CHECKOUTS = load("checkout_sessions")


class Subscriptions(Repository[Subscription]):
    ROW, PREFIX, NAME = Subscription, SUBSCRIPTION, "subscription"


class Invoices(Repository[Invoice]):
    ROW, PREFIX, NAME = Invoice, INVOICE, "invoice"

    async def of_subscription(self, subscription_id: UUID, after: After, limit: int) -> Page[Invoice]:
        """Newest first."""
        rows = await self.data.fetch(
            self._sql["of_subscription"],
            self.tenant_id,
            subscription_id,
            after.created_at,
            after.id,
            limit + 1,
        )
        return page(self.read(rows), limit)


class Payments(Repository[PaymentAttempt]):
    ROW, PREFIX, NAME = PaymentAttempt, PAYMENT, "payment"

    async def of_customer(self, customer_id: UUID, after: After, limit: int) -> Page[PaymentAttempt]:
        """Newest first."""
        rows = await self.data.fetch(
            self._sql["of_customer"], self.tenant_id, customer_id, after.created_at, after.id, limit + 1
        )
        return page(self.read(rows), limit)

    async def reserve_refund(self, charge_id: UUID, amount: int) -> PaymentAttempt | None:
        """Returns the charge with this much more refunded; None when less is left."""
        row = await self.data.fetchrow(self._sql["reserve_refund"], self.tenant_id, charge_id, amount)
        return None if row is None else PaymentAttempt.read(row)


class DunningSchedules(Repository[DunningSchedule]):
    ROW, PREFIX, NAME = DunningSchedule, DUNNING, "dunning schedule"

    async def of_invoice(self, invoice_id: UUID) -> DunningSchedule | None:
        row = await self.data.fetchrow(self._sql["of_invoice"], self.tenant_id, invoice_id)
        return None if row is None else DunningSchedule.read(row)


class CheckoutSessions(Repository[CheckoutSession]):
    ROW, PREFIX, NAME = CheckoutSession, CHECKOUT, "checkout session"

    async def add(self, session: CheckoutSession) -> None:
        await self.data.execute(self._sql["add"], as_array([session]))

    async def lock(self, session_id: UUID) -> CheckoutSession:
        """Raises NotFound."""
        row = await self.data.fetchrow(self._sql["lock"], self.tenant_id, session_id)
        return self.found(row, session_id)

    async def complete(self, session_id: UUID, subscription_id: UUID, now: datetime) -> None:
        await self.data.execute(self._sql["complete"], self.tenant_id, session_id, subscription_id, now)


async def expire_checkouts(data: Executor, now: datetime, limit: int) -> int:
    """Expires open sessions whose time is over, across tenants, and returns how many."""
    expired: int = await data.fetchval(_CHECKOUTS["expire"], now, limit)
    return expired
