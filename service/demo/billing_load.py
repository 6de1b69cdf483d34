"""Generates the demo's events: for each tenant and mode a simulation on the billing engine, with a virtual clock that
runs ahead. Events are recorded as of now. The number of signups is chosen so that two months yield the wanted events.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Final

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.modes import Mode
from service.billing.clock import VirtualClock
from service.demo.demo_producers import EVENTS_PER_SECOND, DemoLedger, RateLimiter, TenantMode
from service.demo.observations import Observations
from service.simulation.simulated_merchants import Trade
from service.simulation.simulation_setup import Cast, stage
from service.simulation.trades import TRADES

_KINDS: Final = {"Ikeja Fitness Club": "Fitness Club", "Bodija Books": "Books"}
_DAYS: Final = 60
_EVENTS_PER_SIGNUP: Final = 6
_LONGEST: Final = timedelta(days=3650)


async def generate_load(
    database: Database, observed: Observations, tenant_modes: Sequence[TenantMode], total: int
) -> None:
    """Runs until `total` events are observed, plus those of a transaction in progress."""
    begins = await billing_cases.clock(database.core)
    rate_limiter = RateLimiter(EVENTS_PER_SECOND)
    per_day = total / _DAYS / _EVENTS_PER_SIGNUP / len(tenant_modes)
    async with asyncio.TaskGroup() as group:
        for number, tenant_mode in enumerate(tenant_modes):
            group.create_task(
                _simulate_tenant(
                    database, observed, tenant_mode, rate_limiter, per_day, begins, total, number
                )
            )


async def _simulate_tenant(
    database: Database,
    observed: Observations,
    tenant_mode: TenantMode,
    rate_limiter: RateLimiter,
    signups_per_day: float,
    begins: datetime,
    total: int,
    seed: int,
) -> None:
    clock = VirtualClock(begins, history=False)
    ledger = DemoLedger(database, clock, observed, tenant_mode, rate_limiter, Random(seed))  # noqa: S311  a script, not a secret
    plans = TRADES[_KINDS[tenant_mode.tenant.name]]
    business = Trade(
        tenant_mode.tenant.name,
        plans,
        payday_aware=False,
        signups_per_day=dict.fromkeys(Mode, signups_per_day),
    )
    enough = asyncio.Event()

    async def pause(_moment: datetime) -> None:
        if len(observed.committed) >= total:
            enough.set()

    cast = Cast([(tenant_mode.tenant.id, business)], {tenant_mode.mode: ledger}, clock, seed)
    async with stage(database, cast, lambda _progress: None) as simulation:
        await simulation.run(begins + _LONGEST, pause, enough)
