"""Sets up a simulation on a database, runs it and reports the result."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

from schema.billing import billing_cases
from schema.connections.database import Database, Pool
from schema.deliveries import workers
from schema.errors import Conflict
from schema.event_log import partitions
from schema.ids import new_id
from schema.modes import Mode
from schema.polling import sleep_unless
from service.billing.clock import VirtualClock
from service.billing.engine import Engine, engine
from service.billing.gateway.scenario_gateway import ScenarioGateway
from service.billing.ledger import Ledger, Unit
from service.simulation.people import Population
from service.simulation.simulated_merchants import Store, Trade, draw_trade, enrol, open_store
from service.simulation.simulation import Simulation

RUNNING: Final = "duro billing run"
SIMULATING: Final = "duro billing simulate"
"""Application names of the processes that bill by the real clock and by a virtual one."""


@dataclass(frozen=True, slots=True)
class Plot:
    """The parameters of a simulation."""

    tenants: int
    days: int
    speed: float
    """Simulated seconds per second; 0 means as fast as possible."""
    signups: float
    """Per merchant and day, on average."""
    seed: int


@dataclass(frozen=True, slots=True)
class Story:
    """The result of a simulation."""

    begins: datetime
    ends: datetime
    seconds: float
    cut_short: bool
    tenants: Sequence[UUID]
    customers: int
    refused: int
    events: Mapping[str, int]

    @property
    def event_count(self) -> int:
        return sum(self.events.values())


@dataclass(frozen=True, slots=True)
class Progress:
    setting_up: int
    """Merchants that are set up."""
    time: datetime
    share: float
    """Share of the simulated time, from 0 to 1."""
    events: int
    customers: int


Show = Callable[[Progress], None]


class Observed(Ledger):
    """A ledger that reports each committed transaction."""

    def __init__(self, pool: Pool, clock: VirtualClock) -> None:
        super().__init__(pool, clock)
        self.observer: Callable[[Unit], None] = lambda _unit: None

    def committed(self, unit: Unit) -> None:
        self.observer(unit)


async def play(database: Database, plot: Plot, show: Show, stop: asyncio.Event) -> Story:
    """Simulates `plot.days` of history that end now. Raises Conflict while `duro billing run` runs on this database, which
    would bill the same subscriptions by the real clock."""
    await refuse_beside_the_real_clock(database)
    ends = await billing_cases.clock(database.core)
    begins = ends - timedelta(days=plot.days)
    for mode in Mode:
        await partitions.ensure_past_partitions(database.data(mode), begins)
    rng = Random(f"{plot.seed}/merchants")  # noqa: S311  a script, not a secret
    trades = [draw_trade(rng, plot.signups) for _ in range(plot.tenants)]
    started = time.monotonic()
    clock = VirtualClock(begins, history=True)
    enrolled = [(await enrol(database, trade), trade) for trade in trades if not stop.is_set()]
    ledgers = {mode: Observed(database.data(mode), clock) for mode in Mode}
    async with stage(database, Cast(enrolled, ledgers, clock, plot.seed), show, stop) as simulation:
        pace = _Pace(plot, begins, simulation, show, stop)
        await simulation.run(ends, pace.keep, stop)
    return Story(
        begins=begins,
        ends=clock.time,
        seconds=time.monotonic() - started,
        cut_short=stop.is_set(),
        customers=simulation.tally.customers,
        refused=simulation.tally.refused,
        events=dict(simulation.tally.events),
        tenants=[tenant_id for tenant_id, _ in enrolled],
    )


async def refuse_beside_a_simulation(database: Database) -> None:
    if await workers.session_named(database.core, SIMULATING):
        raise Conflict(
            "duro billing simulate is running on this database, and its subscriptions would be billed by the real clock: "
            "wait until it ends, or use another database."
        )


async def refuse_beside_the_real_clock(database: Database) -> None:
    if await workers.session_named(database.core, RUNNING):
        raise Conflict(
            "duro billing run is running on this database and would bill simulated subscriptions by the real clock: "
            "stop it, or simulate on another database."
        )


@dataclass(frozen=True, slots=True)
class Cast:
    """The participants of a simulation: merchants, ledgers by mode, and the clock."""

    merchants: Sequence[tuple[UUID, Trade]]
    """Existing tenants."""
    ledgers: Mapping[Mode, Observed]
    clock: VirtualClock
    seed: int
    restless: float = 1.0
    """See habits.py."""


@asynccontextmanager
async def stage(
    database: Database, cast: Cast, show: Show, stop: asyncio.Event | None = None
) -> AsyncIterator[Simulation]:
    """Sets up the merchants' stores until `stop`; no time passes yet."""
    tenants = [tenant_id for tenant_id, _ in cast.merchants]
    engines: dict[Mode, Engine] = {
        mode: engine(database, mode, ScenarioGateway(), ledger, tenants=tenants)
        for mode, ledger in cast.ledgers.items()
    }
    stores: list[Store] = []
    for number, (tenant_id, trade) in enumerate(cast.merchants, start=1):
        if stop is not None and stop.is_set():
            break
        stores += [await open_store(each, tenant_id, trade, cast.clock.time) for each in engines.values()]
        show(Progress(number, cast.clock.time, 0, 0, 0))
    population = Population(f"{new_id().int % 10_000:04}", cast.seed)
    simulation = Simulation(
        database, engines, stores, cast.clock, population, seed=cast.seed, restless=cast.restless
    )
    for ledger in cast.ledgers.values():
        ledger.observer = simulation.observe
    async with AsyncExitStack() as stack:
        for each in engines.values():
            await stack.enter_async_context(each.settling())
        yield simulation


class _Pace:
    def __init__(
        self, plot: Plot, begins: datetime, simulation: Simulation, show: Show, stop: asyncio.Event
    ) -> None:
        self._plot = plot
        self._begins = begins
        self._simulation = simulation
        self._show = show
        self._stop = stop
        self._started = time.monotonic()

    async def keep(self, moment: datetime) -> None:
        played = moment - self._begins
        tally = self._simulation.tally
        share = played / timedelta(days=self._plot.days)
        self._show(Progress(self._plot.tenants, moment, share, tally.events.total(), tally.customers))
        if self._plot.speed:
            due = self._started + played.total_seconds() / self._plot.speed
            await sleep_unless(self._stop, max(0.0, due - time.monotonic()))
