"""Simulates some weeks of business, and applies the log to the rollups."""

import asyncio
from datetime import timedelta
from typing import Any, Final

import asyncpg

from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler, RebuildHandler
from consumers.rollups.rollups_consumer import Rollups
from schema.billing import billing_cases
from schema.billing.rows import Interval
from schema.connections.database import Database, Pool
from schema.event_log import log
from schema.event_log.partitions import ensure_past_partitions
from schema.modes import Mode
from schema.read_models.rollups import ROLLUPS
from service.billing.catalog import NewPlan
from service.billing.clock import VirtualClock
from service.simulation.simulated_merchants import Trade, enrol
from service.simulation.simulation_setup import Cast, Observed, stage
from service.simulation.trades import TRADES
from tests.support.events import sequence_all

ABROAD: Final = (
    NewPlan("Gym, monthly", 1_500_000, Interval.MONTH, trial_days=7),
    NewPlan("Gym in Accra", 90_050, Interval.WEEK, currency="GHS"),
    NewPlan("Gym in Nairobi, yearly", 1_200_001, Interval.YEAR, currency="KES"),
)
ZONES: Final = ("America/New_York", "Pacific/Kiritimati", "Mars/Olympus")
"""Time zones of the first tenants. The last ones have none."""


async def simulate_weeks(database: Database, owner: asyncpg.Connection, days: int, signups: float) -> None:
    """Simulates active customers in test mode, with plans in several currencies and tenants in several time
    zones.
    """
    begins = await billing_cases.clock(database.core) - timedelta(days=days)
    await ensure_past_partitions(database.data(Mode.TEST), begins)
    merchants = []
    for name, plans in (
        ("Abroad", ABROAD),
        ("Kitchen", TRADES["Kitchen"]),
        ("Academy", TRADES["Academy"]),
        ("Cloud", TRADES["Cloud"]),
    ):
        trade = Trade(name, plans, payday_aware=False, signups_per_day={Mode.TEST: signups})
        merchants.append((await enrol(database, trade), trade))
    for (tenant, trade), zone in zip(merchants, ZONES, strict=False):
        await owner.execute(
            "INSERT INTO core.store_configs (tenant_id, display_name, time_zone) VALUES ($1, $2, $3)",
            tenant,
            trade.name,
            zone,
        )
    clock = VirtualClock(begins, history=True)
    ledgers = {Mode.TEST: Observed(database.data(Mode.TEST), clock)}
    async with stage(database, Cast(merchants, ledgers, clock, seed=11, restless=8), _silent) as simulation:
        await simulation.run(begins + timedelta(days=days), _no_pause, asyncio.Event())
    await sequence_all(database.data(Mode.TEST))


def _silent(_progress: object) -> None:
    pass


async def _no_pause(_moment: object) -> None:
    pass


class RollupsFollower:
    """The rollups consumer of the serving generation in a mode."""

    def __init__(self, database: Database, mode: Mode = Mode.TEST, batch_size: int = 1000) -> None:
        self.pool: Pool = database.data(mode)
        self.consumer = Consumer(self.pool, ProjectionHandler(Rollups()), batch_size)

    async def run_to_end(self) -> None:
        await sequence_all(self.pool)
        while await self.consumer.step():
            pass

    async def is_caught_up(self) -> bool:
        """Runs to the end and returns whether the lag is 0.

        It is not, while another session holds the cursor.
        """
        await self.run_to_end()
        return await log.backlog(self.pool, ROLLUPS) == 0

    async def view(self, name: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.pool.fetch(f"SELECT * FROM {name}")]


def rebuilding(pool: Pool, batch_size: int = 1000) -> Consumer:
    return Consumer(pool, RebuildHandler(Rollups()), batch_size)
