"""The simulation loop: customers' intentions in time order, and every hour the scanners."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final, TypeAlias
from uuid import UUID

from schema.billing.billing_cases import Fact
from schema.connections.database import Database
from schema.core import wallet
from schema.errors import Conflict, InvalidInput
from schema.ids import PAYMENT, SUBSCRIPTION, parse_id
from schema.modes import Mode
from schema.secret_box import SecretBox
from service.billing.clock import VirtualClock
from service.billing.engine import Engine
from service.billing.ledger import Unit
from service.simulation.agenda import Agenda
from service.simulation.cards import new_card
from service.simulation.habits import Act, Intention, reactions
from service.simulation.people import Customer, Population
from service.simulation.simulated_merchants import PROMO, Store

TICK: Final = timedelta(hours=1)
_HAS_A_CODE: Final = 0.08
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_ENDED: Final = frozenset({"canceled", "expired", "incomplete_expired"})


@dataclass(frozen=True, slots=True)
class SignUp:
    store: Store


@dataclass(frozen=True, slots=True)
class Doing:
    customer: Customer
    subscription_id: UUID
    intention: Intention


Item: TypeAlias = SignUp | Doing
Pause: TypeAlias = Callable[[datetime], Awaitable[None]]
"""Called with the time after each tick: shows progress and limits the speed."""


@dataclass
class Tally:
    """What has happened so far."""

    events: Counter[str] = field(default_factory=Counter)
    customers: int = 0
    refused: int = 0
    """Intentions that were no longer possible at their time."""


class Simulation:
    """Everything runs sequentially, so that the same seed gives the same history."""

    def __init__(
        self,
        database: Database,
        engines: Mapping[Mode, Engine],
        stores: Sequence[Store],
        clock: VirtualClock,
        population: Population,
        *,
        seed: int,
        restless: float,
    ) -> None:
        self._database = database
        self._box = SecretBox(database.key)
        self._engines = engines
        self._clock = clock
        self._population = population
        self._restless = restless
        self._rng = Random(f"{seed}/stores")  # noqa: S311  a script, not a secret
        self._agenda: Agenda[Item] = Agenda()
        self._customers: dict[UUID, Customer] = {}
        self._newcomer: Customer | None = None
        self._next_due: dict[Mode, datetime] = {}
        self.tally = Tally()
        for store in stores:
            self._plan_next_signup(store)

    def observe(self, unit: Unit) -> None:
        """Called for each committed transaction. Customers react to its events only."""
        if unit.recorded:
            self._next_due.clear()
        for _, fact in unit.recorded:
            self.tally.events[fact.type] += 1
            if "subscriptionId" in fact.data:
                self._react(fact, unit.now)

    async def run(self, until: datetime, pause: Pause, stop: asyncio.Event) -> None:
        """Runs until the given time or until `stop`, which is checked after each tick."""
        while self._clock.time < until and not stop.is_set():
            tick = min(until, self._clock.time + TICK)
            while not stop.is_set() and (item := self._agenda.take_until(tick)):
                at, what = item
                self._clock.advance(at)
                await self._do(what)
            self._clock.advance(tick)
            for mode in self._engines:
                await self._scan(mode, stop)
            await pause(tick)

    async def _scan(self, mode: Mode, stop: asyncio.Event) -> None:
        """What is due by what is known; after a transaction, nothing is."""
        if self._next_due.get(mode, self._clock.time) <= self._clock.time:
            self._next_due[mode] = await self._engines[mode].scan(stop) or _NEVER

    async def _do(self, item: Item) -> None:
        match item:
            case SignUp(store):
                self._plan_next_signup(store)
                await self._sign_up(store)
            case Doing(customer, subscription_id, intention):
                if subscription_id not in self._customers:
                    return  # the subscription has ended
                try:
                    await self._act(customer, subscription_id, intention)
                except (Conflict, InvalidInput):
                    self.tally.refused += 1
        for engine in self._engines.values():
            await engine.charges.settled()

    def _plan_next_signup(self, store: Store) -> None:
        if store.signups_per_day > 0:
            wait = timedelta(days=self._rng.expovariate(store.signups_per_day))
            self._agenda.add(self._clock.time + wait, SignUp(store))

    async def _sign_up(self, store: Store) -> None:
        customer = self._newcomer = self._population.next_customer(store)
        self.tally.customers += 1
        method = await self._card_of(customer)
        checkout = self._engines[store.mode].checkout(store.tenant_id)
        slug = customer.rng.choice(store.links)
        session = await checkout.open(slug, PROMO if customer.rng.random() < _HAS_A_CODE else None)
        await checkout.complete(session.id, customer.contact, method)

    async def _card_of(self, customer: Customer) -> UUID:
        assert customer.contact.phone
        card = new_card(customer.rng, customer.store.mode, self._clock.time)
        _, method = await wallet.enrol(self._database.core, self._box, customer.contact.phone, card)
        return method

    async def _act(self, customer: Customer, subscription_id: UUID, intention: Intention) -> None:
        """Raises Conflict when it is no longer possible."""
        store = customer.store
        subscriptions = self._engines[store.mode].subscriptions(store.tenant_id)
        match intention.act:
            case Act.CANCEL | Act.CANCEL_LATER:
                await subscriptions.cancel(subscription_id, at_period_end=intention.act is Act.CANCEL_LATER)
            case Act.KEEP:
                await subscriptions.keep(subscription_id)
            case Act.PAUSE:
                await subscriptions.pause(subscription_id)
            case Act.RESUME:
                await subscriptions.resume(subscription_id)
            case Act.CHANGE_PLAN:
                await subscriptions.change_plan(subscription_id, customer.rng.choice(store.plans).id)
            case Act.LIMIT:
                await subscriptions.limit(subscription_id, customer.rng.randint(24, 60))
            case Act.NEW_CARD:
                await subscriptions.replace_payment_method(subscription_id, await self._card_of(customer))
            case Act.PAY_WITH_NEW_CARD:
                await subscriptions.replace_payment_method(subscription_id, await self._card_of(customer))
                await subscriptions.collect(subscription_id)
            case Act.REFUND | Act.REFUND_PART:
                assert intention.payment_id
                part = customer.rng.randint(100, 40_000) if intention.act is Act.REFUND_PART else None
                await subscriptions.refund(parse_id(PAYMENT, intention.payment_id), part)

    def _react(self, fact: Fact, now: datetime) -> None:
        subscription_id = parse_id(SUBSCRIPTION, fact.data["subscriptionId"])
        if fact.type == "subscription_created":
            assert self._newcomer
            self._customers[subscription_id] = self._newcomer
        customer = self._customers.get(subscription_id)
        if customer is None:
            return
        if fact.data.get("status") in _ENDED:
            del self._customers[subscription_id]
            return
        for intention in reactions(customer.rng, fact.type, fact.data, self._restless):
            self._agenda.add(now + intention.after, Doing(customer, subscription_id, intention))
