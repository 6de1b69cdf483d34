"""Random histories of subscriptions on a real database: after any actions and charges the rows are consistent, and the
event log leads to the same state.
"""

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from schema.billing.rows import PaymentAttempt, Plan, Rail, Subscription
from schema.connections.database import Database
from schema.core import wallet
from schema.core.wallet import NewMethod
from schema.errors import Conflict, InvalidInput
from schema.secret_box import SecretBox
from service.billing.catalog import NewPromoCode
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import GatewayUnavailable, Order, Outcome
from tests.support.billing.billing_invariants import check_invariants
from tests.support.billing.billing_replay import replay, rows_of
from tests.support.billing.billing_world import (
    EXPIRED_CARD,
    FLAKY_CARD,
    GOOD_CARD,
    POOR_CARD,
    REFUSED_CARD,
    UNSUPPORTED_CARD,
    TenantBilling,
    tenant_billing,
)
from tests.support.event_schemas import assert_conforms

CARDS = (
    GOOD_CARD,
    GOOD_CARD,
    GOOD_CARD,
    GOOD_CARD,
    FLAKY_CARD,
    POOR_CARD,
    EXPIRED_CARD,
    REFUSED_CARD,
    UNSUPPORTED_CARD,
)
PLANS: tuple[dict[str, Any], ...] = (
    {"interval": "week", "amount": 150_000},
    {"interval": "month", "amount": 500_000},
    {"interval": "month", "amount": 700_000, "trial_days": 7},
    {"interval": "week", "amount": 90_000, "max_cycles": 2},
    {"interval": "quarter", "amount": 1_200_000, "trial_days": 30, "max_cycles": 1},
)
PROMOS = (None, None, None, "HALF", "GIFT")
WAITS = (timedelta(hours=2), timedelta(days=1), timedelta(days=8), timedelta(days=33))
OPEN = {"incomplete", "trialing", "active", "past_due", "paused", "unpaid"}
POSSIBLE: Mapping[str, set[str]] = {
    "pause": {"active"},
    "resume": {"paused"},
    "cancel": OPEN,
    "cancel_later": {"trialing", "active"},
    "keep": OPEN,
    "change_plan": {"trialing", "active"},
    "replace_card": OPEN,
    "limit": OPEN,
    "collect": {"incomplete", "unpaid"},
}


class Step(NamedTuple):
    action: str
    which: int
    """Picks an existing subscription, payment or other object."""
    how: int
    """Plan, card, amount or time."""


TIME = ("next", "next", "next", "next", "next", "wait", "wait")
OFTEN = (
    "fail",
    "fail",
    "pause",
    "resume",
    "cancel_later",
    "change_plan",
    "replace_card",
    "collect",
    "refund",
)
SELDOM = ("subscribe", "cancel", "keep", "limit", "blacklist", "outage", "set_up")
ACTIONS = (*TIME, *TIME, *OFTEN, *OFTEN, *SELDOM)


@st.composite
def plots(draw: st.DrawFn) -> list[Step]:
    """Begins with two subscriptions, the second one trialing."""

    def step(action: str) -> Step:
        return Step(action, draw(st.integers(0, 4)), draw(st.integers(0, 15)))

    first = [step("subscribe"), Step("subscribe", 0, 2)]
    return first + [step(draw(st.sampled_from(ACTIONS))) for _ in range(draw(st.integers(3, 13)))]


@dataclass
class World:
    billing: TenantBilling
    cards: Mapping[str, UUID]
    plans: dict[int, Plan] = field(default_factory=dict)
    subs: list[UUID] = field(default_factory=list)
    blacklisted: set[UUID] = field(default_factory=set)
    outage: bool = False
    failures: list[FailureCode] = field(default_factory=list)
    """Sets the outcome of the next charges and refunds for any card."""

    def answer(self, _order: Order) -> Outcome | None:
        if self.outage:
            raise GatewayUnavailable
        return Outcome(self.failures.pop(0)) if self.failures else None

    async def plan(self, which: int) -> Plan:
        which %= len(PLANS)
        if which not in self.plans:
            self.plans[which] = await self.billing.plan(**PLANS[which])
        return self.plans[which]

    async def take(self, step: Step) -> None:
        match step.action:
            case "next":
                due = await self.billing.next_due()
                self.billing.clock.advance(due or self.billing.clock.time + timedelta(hours=1))
            case "wait":
                self.billing.clock.advance(self.billing.clock.time + WAITS[step.how % len(WAITS)])
            case "outage":
                self.outage = not self.outage
            case "fail":
                failures = list(FailureCode)
                self.failures += [failures[step.how % len(failures)]] * (1 + step.which)
            case "subscribe":
                await self.subscribe(step)
            case "set_up":
                rails = [rail for place, rail in enumerate(Rail) if step.how & 1 << place] or list(Rail)
                await self.billing.catalog.set_up(payday_aware=step.which % 2 == 0, rails=rails)
            case "refund":
                await self.refund(step)
            case _ if self.subs:
                await self.act(step, self.subs[step.which % len(self.subs)])
        await self.billing.settled()
        await self.billing.scan()
        await check_invariants(self.billing)

    async def subscribe(self, step: Step) -> None:
        plan, promo = await self.plan(step.how), PROMOS[step.which % len(PROMOS)]
        card = self.cards[CARDS[step.which * step.how % len(CARDS)]]
        if promo and not await self.billing.pool.fetchval(
            "SELECT count(*) FROM promo_codes WHERE tenant_id = $1 AND code = $2", self.billing.tenant, promo
        ):
            new = NewPromoCode(promo, percent_off=100 if promo == "GIFT" else 50)
            await self.billing.catalog.create_promo_code(new)
        made = await self.billing.checkout.subscribe(self.billing.contact(), plan.id, card, promo)
        self.subs.append(made.id)

    async def act(self, step: Step, sub: UUID) -> None:
        row = await self.billing.subscription(sub)
        if step.action == "blacklist":
            await self.billing.catalog.blacklist(row.customer_id, "chargebacks")
            self.blacklisted.add(sub)
            return
        possible = await self.possible(step, row)
        event(f"{step.action} {row.status}: {'done' if possible else 'refused'}")
        await self.hold(self.do(step, sub), possible=possible)

    async def hold(self, action: Coroutine[Any, Any, None], *, possible: bool) -> None:
        """Runs the action. It must succeed if possible, or else fail without a change."""
        before, refusal = await self.billing.everything(), None
        try:
            await action
        except (Conflict, InvalidInput) as error:
            refusal = error
        assert (refusal is None) == possible, refusal
        assert refusal is None or await self.billing.everything() == before

    async def under_way(self, sub: UUID) -> bool:
        found = "SELECT count(*) FROM payment_attempts WHERE subscription_id = $1 AND state = 'in_flight'"
        return bool(await self.billing.pool.fetchval(found, sub))

    async def possible(self, step: Step, row: Subscription) -> bool:
        owes = row.status in {"incomplete", "past_due", "unpaid"}
        more = {
            "cancel_later": not row.cancel_at_period_end,
            "keep": row.cancel_at_period_end,
            "change_plan": row.plan_id != (await self.plan(step.how)).id,
            "collect": row.id not in self.blacklisted,
            "limit": step.how >= max(1, row.cycles + owes),
        }
        there = row.status in POSSIBLE[step.action] and more.get(step.action, True)
        return there and not await self.under_way(row.id)

    async def do(self, step: Step, sub: UUID) -> None:
        subscriptions = self.billing.subscriptions
        match step.action:
            case "cancel_later":
                await subscriptions.cancel(sub, at_period_end=True)
            case "change_plan":
                await subscriptions.change_plan(sub, (await self.plan(step.how)).id)
            case "replace_card":
                await subscriptions.replace_payment_method(sub, self.cards[CARDS[step.how % len(CARDS)]])
            case "limit":
                await subscriptions.limit(sub, step.how)
            case action:
                await getattr(subscriptions, action)(sub)

    async def refund(self, step: Step) -> None:
        charges = [payment for payment in await self.billing.payments() if payment.kind == "charge"]
        if not charges:
            return
        charge: PaymentAttempt = charges[step.which % len(charges)]
        amount = None if step.how > 12 else 1 + step.how * 60_000
        left = charge.amount - charge.refunded if charge.state == "succeeded" else 0
        possible = 0 < (amount or left) <= left and not await self.under_way(charge.subscription_id)
        event(f"refund: {'done' if possible else 'refused'}")
        await self.hold(self.billing.subscriptions.refund(charge.id, amount), possible=possible)

    async def heal(self) -> None:
        """Answers every payment in flight."""
        self.outage = False
        self.billing.clock.advance(self.billing.clock.time + LEASE)
        await self.billing.scan()


@pytest.fixture
async def cards(database: Database) -> Mapping[str, UUID]:
    """Wallets belong to no tenant, so all examples share them."""
    box = SecretBox(database.key)
    entries = [
        (f"+23480300000{n:02d}", NewMethod("card", number)) for n, number in enumerate(dict.fromkeys(CARDS))
    ]
    methods = await wallet.enrol_many(database.core, box, entries)
    return {new.token: method for (_, new), method in zip(entries, methods, strict=True)}


_LEAVE_NOTHING = """
UPDATE payment_attempts SET state = 'failed', failure_code = 'x', leased_until = NULL, finished_at = now() WHERE state = 'in_flight';
UPDATE dunning_schedules SET state = 'cancelled', in_flight = false, next_attempt_at = NULL WHERE next_attempt_at IS NOT NULL;
UPDATE subscriptions SET status = 'canceled', ended_at = now() WHERE ended_at IS NULL;
"""


@asynccontextmanager
async def world(database: Database, cards: Mapping[str, UUID]) -> AsyncIterator[World]:
    """Examples share a database. Each has its own tenant and leaves nothing that could become due."""
    async with tenant_billing(database) as billing:
        it = World(billing, cards)
        billing.gateway.answers = it.answer
        try:
            yield it
        finally:
            await billing.pool.execute(_LEAVE_NOTHING)


@given(plots())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_rows_and_events_always_agree(
    database: Database, cards: Mapping[str, UUID], plot: list[Step]
) -> None:
    async with world(database, cards) as it:
        for step in plot:
            await it.take(step)
        await it.heal()
        await check_invariants(it.billing)
        events = await it.billing.events()
        for type_, data in events:
            assert_conforms(type_, data)
        replayed, rows = replay(events), await rows_of(it.billing)
        assert replayed.subscriptions == rows.subscriptions
        assert replayed.invoices == rows.invoices
        assert replayed.charges == rows.charges
        assert replayed.refunds == rows.refunds
