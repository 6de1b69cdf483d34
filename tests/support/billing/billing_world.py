"""A tenant's billing in one mode, on a real database, with a controlled clock and a counting gateway."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from schema.billing import billing_cases
from schema.billing.rows import DunningSchedule, Interval, Invoice, PaymentAttempt, Plan, Subscription
from schema.billing.subscription_repositories import DunningSchedules, Invoices, Payments, Subscriptions
from schema.connections.database import Database
from schema.core import tenants, wallet
from schema.core.wallet import NewMethod
from schema.errors import DuroError
from schema.modes import Mode
from schema.pages import After
from schema.secret_box import SecretBox
from service.billing.catalog import NewPlan
from service.billing.charges import ChargeProcessor
from service.billing.checkout import Contact
from service.billing.clock import VirtualClock
from service.billing.engine import Engine, engine
from service.billing.gateway.gateway import Order, Outcome
from service.billing.gateway.scenario_gateway import ScenarioGateway
from service.billing.ledger import Ledger
from tests.support.billing.payment_totals import GatewayRecords

START = datetime(2026, 11, 30, 10, 30, tzinfo=UTC)
GOOD_CARD = "4084084084084081"
POOR_CARD = "4000000000009995"
EXPIRED_CARD = "4000000000000069"
STOLEN_CARD = "4000000000009979"
REFUSED_CARD = "4000000000000002"
UNSUPPORTED_CARD = "4000000000000127"
FLAKY_CARD = "4000000000009987"

_TABLES = (
    *("store_settings", "plans", "customers", "promo_codes", "payment_links", "subscriptions", "invoices"),
    *("payment_attempts", "dunning_schedules", "checkout_sessions", "events"),
)
_EVERYTHING = " UNION ALL ".join(
    f"SELECT '{t}' || t::text FROM {t} AS t WHERE tenant_id = $1" for t in _TABLES
)

_numbers = itertools.count(1)


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class CountingGateway:
    """Counts charges by reference and repeats its answer for a known one, like a real gateway.

    `answers` overrides it.
    """

    answers: Callable[[Order], Outcome | None] = lambda _order: None
    answered: dict[str, Outcome] = field(default_factory=dict)
    charged: Counter[str] = field(default_factory=Counter)
    """Number of requests by reference."""
    orders: dict[str, Order] = field(default_factory=dict)
    refunded: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    """Minor units by reference, for successful charges."""
    _open: asyncio.Event = field(default_factory=_set)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Holds all answers during the block."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def charge(self, order: Order) -> Outcome:
        self.charged[order.reference] += 1
        self.orders[order.reference] = order
        await self._open.wait()
        if order.reference not in self.answered:
            outcome = self.answers(order) or await ScenarioGateway().charge(order)
            self.answered[order.reference] = outcome
            if outcome.succeeded:
                self.taken[order.reference] = order.amount
        return self.answered[order.reference]

    async def refund(self, order: Order, of: str) -> Outcome:
        await self._open.wait()
        if order.reference not in self.answered:
            outcome = self.answers(order) or await ScenarioGateway().refund(order, of)
            self.answered[order.reference] = outcome
            if outcome.succeeded:
                self.refunded[of] += order.amount
        return self.answered[order.reference]

    @property
    def known(self) -> GatewayRecords:
        refused = [reference for reference in self.charged if not self.answered[reference].succeeded]
        return GatewayRecords(self.taken, refused)


@dataclass
class TenantBilling:
    database: Database
    engine: Engine
    clock: VirtualClock
    gateway: CountingGateway
    tenant: UUID

    @property
    def pool(self) -> Any:
        return self.database.data(self.engine.mode)

    @property
    def subscriptions(self) -> Any:
        return self.engine.subscriptions(self.tenant)

    @property
    def catalog(self) -> Any:
        return self.engine.catalog(self.tenant)

    @property
    def checkout(self) -> Any:
        return self.engine.checkout(self.tenant)

    async def plan(self, amount: int = 500_000, interval: str = Interval.MONTH, **more: Any) -> Plan:
        return await self.catalog.create_plan(NewPlan(f"Plan {next(_numbers)}", amount, interval, **more))

    async def card(self, number: str = GOOD_CARD, phone: str | None = None) -> UUID:
        """Saves a card of a new customer in the wallet."""
        phone = phone or f"+234803{next(_numbers):07d}"
        _, method = await wallet.enrol(
            self.database.core,
            SecretBox(self.database.key),
            phone,
            NewMethod("card", number, "visa", number[-4:]),
        )
        return method

    async def subscribe(self, plan: Plan | None = None, card: str = GOOD_CARD, **more: Any) -> UUID:
        """Subscribes and waits for the answer to the first charge."""
        plan = plan or await self.plan()
        made = await self.checkout.subscribe(self.contact(), plan.id, await self.card(card), **more)
        await self.settled()
        return made.id

    async def settled(self) -> None:
        await self.engine.charges.settled()

    def contact(self) -> Contact:
        number = next(_numbers)
        return Contact(f"Customer {number}", f"customer-{number}@example.com", f"+234701{number:07d}")

    async def subscription(self, id_: UUID) -> Subscription:
        return await Subscriptions(self.pool, self.tenant).get(id_)

    async def invoices(self, id_: UUID) -> list[Invoice]:
        """The oldest first."""
        return list((await Invoices(self.pool, self.tenant).of_subscription(id_, After(), 100)).items)[::-1]

    async def schedule(self, id_: UUID) -> DunningSchedule | None:
        """Returns the schedule of the subscription's latest invoice."""
        latest = (await self.invoices(id_))[-1]
        return await DunningSchedules(self.pool, self.tenant).of_invoice(latest.id)

    async def payments(self) -> list[PaymentAttempt]:
        """The oldest first."""
        return list((await Payments(self.pool, self.tenant).list(After(), 100)).items)[::-1]

    async def events(self, *wanted: str) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.pool.fetch(
            "SELECT type, data::text AS data FROM events WHERE tenant_id = $1 ORDER BY seq", self.tenant
        )
        events = [(row["type"], orjson.loads(row["data"])) for row in rows]
        return [(type_, data) for type_, data in events if not wanted or type_ in wanted]

    async def types(self) -> list[str]:
        return [type_ for type_, _ in await self.events()]

    async def everything(self) -> list[str]:
        """Returns all rows of the tenant, including events."""
        return sorted(row[0] for row in await self.pool.fetch(_EVERYTHING, self.tenant))

    @asynccontextmanager
    async def expect_error(self, kind: type[DuroError], saying: str) -> AsyncIterator[None]:
        """Expects an error that contains `saying`, and no change in the database."""
        before = await self.everything()
        with pytest.raises(kind) as refusal:
            yield
        sentence = str(refusal.value)
        assert saying in sentence
        assert sentence.endswith(".")
        assert sentence.isprintable()
        assert await self.everything() == before

    async def step(self, scanner: str) -> int:
        """Runs one step of the named scanner. Returns how many subscriptions were due."""
        return await next(each for each in self.engine.scanners if each.name == scanner).step()

    async def scan(self) -> None:
        """Scans until nothing is due."""
        await self.engine.scan()

    async def at(self, moment: datetime) -> None:
        """Advances the clock and processes what is due."""
        self.clock.advance(moment)
        await self.scan()

    async def until(self, moment: datetime) -> None:
        """Advances the clock through each due time, like an engine that never stops."""
        while (due := await self.next_due()) is not None and due < moment:
            await self.at(due)
        await self.at(moment)

    async def next_due(self) -> datetime | None:
        return min((await billing_cases.next_due(self.pool, self.clock.time, None)).values(), default=None)

    async def after(self, **how_long: float) -> None:
        await self.at(self.clock.time + timedelta(**how_long))

    async def through(self, until: datetime, step: timedelta = timedelta(hours=12)) -> None:
        """Advances the clock in steps."""
        while self.clock.time < until:
            await self.at(min(until, self.clock.time + step))

    async def another(self) -> "TenantBilling":
        """Creates another tenant on the same engine."""
        tenant, _keys = await tenants.create(self.database.core, "Bodija Books")
        return replace(self, tenant=tenant)


async def idle_tenant_billing(
    database: Database,
    *,
    mode: Mode = Mode.TEST,
    start: datetime = START,
    gateway: CountingGateway | None = None,
) -> TenantBilling:
    """Its charge processor does not run, so the gateway's answers are not written."""
    tenant, _keys = await tenants.create(database.core, "Ikeja Fitness Club")
    clock, gateway = VirtualClock(start, history=False), gateway or CountingGateway()
    made = engine(database, mode, gateway, Ledger(database.data(mode), clock))
    return TenantBilling(database, made, clock, gateway, tenant)


@asynccontextmanager
async def tenant_billing(
    database: Database,
    *,
    mode: Mode = Mode.TEST,
    start: datetime = START,
    gateway: CountingGateway | None = None,
) -> AsyncIterator[TenantBilling]:
    made = await idle_tenant_billing(database, mode=mode, start=start, gateway=gateway)
    async with at_work(made.engine.charges):
        yield made


@asynccontextmanager
async def second_worker(of: TenantBilling) -> AsyncIterator[TenantBilling]:
    """Runs another worker on the same database and gateway."""
    made = engine(of.database, of.engine.mode, of.gateway, of.engine.ledger)
    async with at_work(made.charges):
        yield replace(of, engine=made)


@asynccontextmanager
async def at_work(charges: ChargeProcessor) -> AsyncIterator[None]:
    stop = asyncio.Event()
    settling = asyncio.create_task(charges.run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await settling
