"""Puts the billing engine's parts of one mode together, and starts nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

from schema import wallet
from schema.billing import books
from schema.billing.books import Whose
from schema.billing.dealings import expire_checkouts
from schema.database import Database
from schema.modes import Mode
from schema.polling import sleep_unless, through_outages
from schema.secret_box import SecretBox
from service.billing.cashier import Cashier
from service.billing.checkout import Checkout
from service.billing.clock import DatabaseClock
from service.billing.desk import Desk
from service.billing.gateway import Gateway
from service.billing.ledger import Ledger
from service.billing.scanning import BATCH, Scanner, scanners
from service.billing.shelf import Shelf
from service.supervisor import Part

_EXPIRE_EVERY_S: Final = 60.0
_EXPIRE_AT_ONCE: Final = 500
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class CheckoutExpiry:
    """Closes checkout sessions that nobody completed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not await through_outages(stop, "expire checkouts", self.step):
                await sleep_unless(stop, _EXPIRE_EVERY_S)

    async def step(self) -> int:
        """How many it closed."""
        now = await self._ledger.clock.now(self._ledger.pool)
        return await expire_checkouts(self._ledger.pool, now, _EXPIRE_AT_ONCE)


@dataclass(frozen=True)
class Engine:
    mode: Mode
    ledger: Ledger
    cashier: Cashier
    scanners: Sequence[Scanner]
    expiry: CheckoutExpiry
    whose: Whose

    def stages(self) -> list[list[Part]]:
        """For a Supervisor, in the order of starting: scanners stop first, then what is under way is settled."""
        return [
            [Part(f"cashier {self.mode}", self.cashier)],
            [
                Part(f"checkout expiry {self.mode}", self.expiry),
                *(Part(f"{scanner.name} {self.mode}", scanner) for scanner in self.scanners),
            ],
        ]

    async def scan(self, stop: asyncio.Event | None = None) -> datetime | None:
        """Until nothing is due any more and all of it is settled, or until `stop`; while `settling`. When there is something
        to do next, as far as that is known."""
        while stop is None or not stop.is_set():
            now = await self.ledger.clock.now(self.ledger.pool)
            due = await books.next_due(self.ledger.pool, now, self.whose)
            ripe = [scanner for scanner in self.scanners if due.get(scanner.state, _NEVER) <= now]
            found = [await scanner.step() for scanner in ripe]
            await self.cashier.settled()
            if not any(found):
                return min(due.values(), default=None)
        return None

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """The cashier at work; at the end, what is under way is settled."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.cashier.run(stop))
        try:
            yield
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def shelf(self, tenant_id: UUID) -> Shelf:
        return Shelf(self.ledger, tenant_id)

    def checkout(self, tenant_id: UUID) -> Checkout:
        return Checkout(self.ledger, self.cashier, tenant_id)

    def desk(self, tenant_id: UUID) -> Desk:
        return Desk(self.ledger, self.cashier, tenant_id)


def engine(
    database: Database,
    mode: Mode,
    gateway: Gateway,
    ledger: Ledger | None = None,
    *,
    whose: Whose = None,
    batch: int = BATCH,
) -> Engine:
    """By the database's clock unless `ledger` goes by another one. `whose` None: the scanners look at all tenants."""
    ledger = ledger or Ledger(database.data(mode), DatabaseClock())
    cashier = Cashier(ledger, gateway, partial(_tokens, database, SecretBox(database.key)))
    return Engine(
        mode,
        ledger,
        cashier,
        scanners(ledger, cashier, whose=whose, batch=batch),
        CheckoutExpiry(ledger),
        whose,
    )


async def _tokens(
    database: Database, box: SecretBox, payment_method_ids: Sequence[UUID]
) -> Mapping[UUID, wallet.Token]:
    return await wallet.open_tokens(database.core, box, payment_method_ids)
