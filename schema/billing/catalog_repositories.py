"""Plans, promo codes and payment links of a merchant, and its billing settings."""

from datetime import datetime
from uuid import UUID

import asyncpg

from schema.billing.repository import Repository
from schema.billing.rows import PaymentLink, Plan, PromoCode, StoreSettings, as_array
from schema.connections.database import Executor
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import LINK, PLAN, PROMO, format_id
from schema.queries import load

_SETTINGS = load("store_settings")


class Plans(Repository[Plan]):
    ROW, PREFIX, NAME = Plan, PLAN, "plan"

    async def add(self, plan: Plan) -> None:
        await self.data.execute(self._sql["add"], as_array([plan]))

    async def archive(self, plan_id: UUID, now: datetime) -> Plan:
        """Ends new subscriptions to the plan; existing ones continue."""
        row = await self.data.fetchrow(self._sql["archive"], self.tenant_id, plan_id, now)
        return self.found(row, plan_id)

    async def delete(self, plan_id: UUID) -> None:
        """Raises Conflict when the plan is in use: its subscriptions and invoices refer to it."""
        try:
            deleted = await self.data.fetchval(self._sql["delete"], self.tenant_id, plan_id)
        except asyncpg.ForeignKeyViolationError as error:
            raise Conflict(
                f"Plan {format_id(PLAN, plan_id)} is in use ({error.table_name}) and cannot be deleted: archive it instead."
            ) from None
        if deleted is None:
            raise NotFound(f"There is no plan {format_id(PLAN, plan_id)} of this tenant in this mode.")


def check_on_sale(plan: Plan) -> None:
    """Raises Conflict for an archived plan."""
    if not plan.active:
        raise Conflict(f"Plan {format_id(PLAN, plan.id)} is archived: no new subscription is possible.")


class PromoCodes(Repository[PromoCode]):
    ROW, PREFIX, NAME = PromoCode, PROMO, "promo code"

    async def add(self, promo: PromoCode) -> None:
        """Raises Conflict when the tenant already has the code."""
        try:
            await self.data.execute(self._sql["add"], as_array([promo]))
        except asyncpg.UniqueViolationError:
            raise Conflict(f"Promo code {promo.code} already exists.") from None

    async def redeem(self, code: str, now: datetime) -> PromoCode:
        """Counts a use within the caller's transaction. Raises InvalidInput for a code that cannot be used."""
        row = await self.data.fetchrow(self._sql["redeem"], self.tenant_id, code, now)
        if row is None:
            known = await self.data.fetchrow(self._sql["by_code"], self.tenant_id, code)
            why = "has expired or is used up" if known else "does not exist"
            raise InvalidInput(f"The promo code {code!r} {why}.")
        return PromoCode.read(row)


class PaymentLinks(Repository[PaymentLink]):
    ROW, PREFIX, NAME = PaymentLink, LINK, "payment link"

    async def add(self, link: PaymentLink) -> None:
        """Raises Conflict when the tenant already has the slug."""
        try:
            await self.data.execute(self._sql["add"], as_array([link]))
        except asyncpg.UniqueViolationError:
            raise Conflict(f"Payment link {link.slug!r} already exists.") from None

    async def by_slug(self, slug: str) -> PaymentLink:
        """Raises NotFound, also for a disabled link."""
        printable = slug.isprintable()  # PostgreSQL cannot store any other
        row = await self.data.fetchrow(self._sql["by_slug"], self.tenant_id, slug) if printable else None
        if row is None or not row["active"]:
            raise NotFound(f"There is no payment link {slug!r} of this tenant in this mode.")
        return PaymentLink.read(row)


async def store_settings(data: Executor, tenant_id: UUID) -> StoreSettings | None:
    """Returns None if nothing was set; then the table's defaults apply."""
    row = await data.fetchrow(_SETTINGS["get"], tenant_id)
    return None if row is None else StoreSettings.read(row)


async def save_store_settings(data: Executor, settings: StoreSettings) -> None:
    await data.execute(_SETTINGS["save"], as_array([settings]))
