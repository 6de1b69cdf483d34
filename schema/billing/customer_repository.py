"""A merchant's customers, and the one view across merchants: the subscriptions of a phone number."""

from datetime import datetime
from uuid import UUID

from schema.billing.repository import Repository
from schema.billing.rows import Customer, Subscription, as_array
from schema.connections.database import Executor
from schema.ids import CUSTOMER
from schema.pages import After, Page, page
from schema.queries import load

_SUBSCRIPTIONS = load("subscriptions")


class Customers(Repository[Customer]):
    ROW, PREFIX, NAME = Customer, CUSTOMER, "customer"

    async def reuse(self, customer: Customer) -> Customer:
        """Returns the customer with this e-mail address, adding this one if there is none. Safe under concurrency."""
        row = await self.data.fetchrow(self._sql["reuse"], as_array([customer]))
        assert row is not None
        return Customer.read(row)

    async def by_email(self, email: str) -> Customer | None:
        row = await self.data.fetchrow(self._sql["by_email"], self.tenant_id, email)
        return None if row is None else Customer.read(row)

    async def blacklist(self, customer_id: UUID, reason: str, now: datetime) -> Customer:
        """Blocks further sales; the customer's subscriptions end when they are next due."""
        row = await self.data.fetchrow(self._sql["blacklist"], self.tenant_id, customer_id, reason, now)
        return self.found(row, customer_id)


async def subscriptions_of_phone(data: Executor, phone: str, after: After, limit: int) -> Page[Subscription]:
    """Lists subscriptions with all merchants of one mode, newest first: for the portal, once the phone is verified."""
    rows = await data.fetch(_SUBSCRIPTIONS["of_phone"], phone, after.created_at, after.id, limit + 1)
    return page([Subscription.read(row) for row in rows], limit)
