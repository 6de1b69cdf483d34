"""Simulated merchants, set up like real ones in both modes: tenant, settings, plans, payment links, a promo code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

from schema.billing.rows import Plan, Rail
from schema.connections.database import Database
from schema.core import tenants
from schema.modes import Mode
from service.billing.catalog import NewPlan, NewPromoCode
from service.billing.engine import Engine
from service.simulation.trades import TRADES, merchant_name

PROMO: Final = "WELCOME"
_WAITS_FOR_PAYDAY: Final = 0.8


@dataclass(frozen=True, slots=True)
class Store:
    """A merchant in one mode."""

    tenant_id: UUID
    mode: Mode
    plans: Sequence[Plan]
    links: Sequence[str]
    """Slugs of the payment links, in the order of the plans."""
    signups_per_day: float


@dataclass(frozen=True, slots=True)
class Trade:
    """Draws a merchant."""

    name: str
    plans: Sequence[NewPlan]
    payday_aware: bool
    signups_per_day: Mapping[Mode, float]


def draw_trade(rng: Random, signups_per_day: float) -> Trade:
    """Draws signups per day: few merchants are large, and test mode sees little traffic."""
    kind = rng.choice(list(TRADES))
    size = rng.lognormvariate(-0.32, 0.8)  # mean 1
    return Trade(
        merchant_name(rng, kind),
        TRADES[kind],
        rng.random() < _WAITS_FOR_PAYDAY,
        {Mode.LIVE: signups_per_day * size, Mode.TEST: signups_per_day * size / 10},
    )


async def enrol(database: Database, trade: Trade) -> UUID:
    tenant_id, _api_keys = await tenants.create(database.core, trade.name)
    return tenant_id


async def open_store(engine: Engine, tenant_id: UUID, trade: Trade, now: datetime) -> Store:
    catalog = engine.catalog(tenant_id)
    await catalog.set_up(payday_aware=trade.payday_aware, rails=list(Rail))
    plans = [await catalog.create_plan(new) for new in trade.plans]
    links = [f"plan-{number}" for number, _ in enumerate(plans, start=1)]
    for plan, slug in zip(plans, links, strict=True):
        await catalog.create_link(plan.id, slug)
    await catalog.create_promo_code(
        NewPromoCode(PROMO, percent_off=20, expires_at=now + timedelta(days=3650))
    )
    return Store(tenant_id, engine.mode, plans, links, trade.signups_per_day[engine.mode])
