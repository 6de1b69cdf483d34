"""Composes the billing engine of one mode. It starts nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

from schema.billing import billing_cases
from schema.billing.billing_cases import TenantFilter
from schema.billing.subscription_repositories import expire_checkouts
from schema.connections.database import Database
from schema.core import wallet
from schema.modes import Mode
from schema.polling import sleep_unless, through_outages
from schema.secret_box import SecretBox
from service.billing.catalog import MerchantCatalog
from service.billing.charges import ChargeProcessor
from service.billing.checkout import Checkout
from service.billing.clock import DatabaseClock
from service.billing.gateway.gateway import Gateway
from service.billing.ledger import Ledger
from service.billing.scanning import BATCH, Scanner, scanners
from service.billing.subscriptions import SubscriptionActions
from service.supervisor import Part

_EXPIRE_EVERY_S: Final = 60.0
_EXPIRE_AT_ONCE: Final = 500
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class CheckoutExpiry:
    """Closes checkout sessions that were not completed in time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not await through_outages(stop, "expire checkouts", self.step):
                await sleep_unless(stop, _EXPIRE_EVERY_S)

    async def step(self) -> int:
        """Returns how many sessions it closed."""
        now = await self._ledger.clock.now(self._ledger.pool)
        return await expire_checkouts(self._ledger.pool, now, _EXPIRE_AT_ONCE)


@dataclass(frozen=True)
class Engine:
    mode: Mode
    ledger: Ledger
    charges: ChargeProcessor
    scanners: Sequence[Scanner]
    expiry: CheckoutExpiry
    tenants: TenantFilter

    def stages(self) -> list[list[Part]]:
        """Returns the parts for a Supervisor in starting order: scanners stop first, then attempts in flight are settled."""
        return [
            [Part(f"charges {self.mode}", self.charges)],
            [
                Part(f"checkout expiry {self.mode}", self.expiry),
                *(Part(f"{scanner.name} {self.mode}", scanner) for scanner in self.scanners),
            ],
        ]

    async def scan(self, stop: asyncio.Event | None = None) -> datetime | None:
        """Scans until nothing is due and everything is settled, or until `stop`. Needs `settling`.

        Returns when something is due next, as far as that is known.
        """
        while stop is None or not stop.is_set():
            now = await self.ledger.clock.now(self.ledger.pool)
            due = await billing_cases.next_due(self.ledger.pool, now, self.tenants)
            ripe = [scanner for scanner in self.scanners if due.get(scanner.state, _NEVER) <= now]
            found = [await scanner.step() for scanner in ripe]
            await self.charges.settled()
            if not any(found):
                return min(due.values(), default=None)
        return None

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """Runs the charges; on exit, settles the attempts in flight."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.charges.run(stop))
        try:
            yield
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def catalog(self, tenant_id: UUID) -> MerchantCatalog:
        return MerchantCatalog(self.ledger, tenant_id)

    def checkout(self, tenant_id: UUID) -> Checkout:
        return Checkout(self.ledger, self.charges, tenant_id)

    def subscriptions(self, tenant_id: UUID) -> SubscriptionActions:
        return SubscriptionActions(self.ledger, self.charges, tenant_id)


def engine(
    database: Database,
    mode: Mode,
    gateway: Gateway,
    ledger: Ledger | None = None,
    *,
    tenants: TenantFilter = None,
    batch: int = BATCH,
) -> Engine:
    """Uses the database's clock unless `ledger` has another one. With `tenants` None the scanners look at all tenants."""
    ledger = ledger or Ledger(database.data(mode), DatabaseClock())
    charges = ChargeProcessor(ledger, gateway, partial(_tokens, database, SecretBox(database.key)))
    return Engine(
        mode,
        ledger,
        charges,
        scanners(ledger, charges, tenants=tenants, batch=batch),
        CheckoutExpiry(ledger),
        tenants,
    )


async def _tokens(
    database: Database, box: SecretBox, payment_method_ids: Sequence[UUID]
) -> Mapping[UUID, wallet.Token]:
    return await wallet.open_tokens(database.core, box, payment_method_ids)
