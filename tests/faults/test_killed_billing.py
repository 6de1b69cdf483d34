"""Billing workers are killed at every stage of a charge. The gateway survives and counts.

begun and committed ──► asked ──► charged ──► answered ──► written
                    ▲          ▲           ▲            ▲
                    └──────────┴───────────┴────────────┴── SIGKILL
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random

import asyncpg

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.core import tenants
from schema.ids import PAYMENT, format_id
from schema.modes import Mode
from tests.faults.figures import Charges
from tests.faults.length import PATIENCE_S, SEED, length
from tests.faults.remote_gateway import ChargeStage, GatewayServer, gateway_server
from tests.support.billing.billing_world import FLAKY_CARD, GOOD_CARD, POOR_CARD
from tests.support.billing.due import add_due
from tests.support.billing.payment_totals import check_payments
from tests.support.servers.duro_process import DuroProcess, duro, eventually, settings

DUE = length(400, 10_000)
KILLS = length(6, 60)
WORKERS = length(2, 4)
CARDS = (GOOD_CARD, GOOD_CARD, FLAKY_CARD, GOOD_CARD, POOR_CARD)
"""A flaky card fails first and is charged by the first recovery; a card without funds waits for another day.
"""
_SHORT_LEASES = """
CREATE FUNCTION {schema}.short_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.leased_until := least(NEW.leased_until, clock_timestamp() + interval '1 s');
    RETURN NEW;
END $$;
CREATE TRIGGER short_lease BEFORE INSERT OR UPDATE ON {schema}.payment_attempts
    FOR EACH ROW WHEN (NEW.state = 'in_flight') EXECUTE FUNCTION {schema}.short_lease();
"""


@dataclass(frozen=True)
class Kill:
    after: int
    """Number of requests before the kill."""
    moment: ChargeStage | None
    """None: a random worker at any stage."""


@dataclass
class BillingWorkers:
    """Billing workers that are killed by a plan and replaced."""

    database: Database
    gateway: GatewayServer
    socket: str
    figures: Charges
    chance: Random
    plan: list[Kill]
    running: dict[int, tuple[DuroProcess, AsyncExitStack]] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start_worker(self) -> None:
        env = settings(self.database.url, self.database.key)
        async with AsyncExitStack() as stack:
            started = duro(self.socket, env=env, module=("tests.faults.billing_worker",))
            process = await stack.enter_async_context(started)
            worker = (await process.said())["worker"]
            self.running[worker] = process, stack.pop_all()

    def watch(self, moment: ChargeStage, worker: int) -> None:
        if not self.plan or self.gateway.asked.total() < self.plan[0].after or worker not in self.running:
            return
        wanted = self.plan[0].moment
        if wanted is None:
            worker = self.chance.choice(list(self.running))
        elif wanted is not moment:
            return
        self.plan.pop(0)
        self.figures.count(f"killed when {wanted or 'at random'}")
        process, held = self.running.pop(worker)
        os.kill(process.pid, signal.SIGKILL)
        self._later(self._replace(held))

    async def _replace(self, held: AsyncExitStack) -> None:
        await self._note_what_was_in_flight()
        await held.aclose()
        await self.start_worker()

    async def _note_what_was_in_flight(self) -> None:
        """Counts for all workers, because a charge does not record its worker."""
        in_flight = "SELECT id FROM payment_attempts WHERE state = 'in_flight'"
        for mode in Mode:
            for row in await self.database.data(mode).fetch(in_flight):
                reference = format_id(PAYMENT, row["id"])
                self.figures.in_flight += 1
                self.figures.never_asked += reference not in self.gateway.asked
                self.figures.charged_already += reference in self.gateway.taken

    def _later(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def complete(self) -> None:
        """Waits until all killed workers have been replaced."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        for process, _ in self.running.values():
            process.send(signal.SIGTERM)
        for process, _ in self.running.values():
            assert await process.ended() == 0, process.stderr

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, held in self.running.values():
            await held.aclose()


@asynccontextmanager
async def billing_workers(database: Database, figures: Charges) -> AsyncIterator[BillingWorkers]:
    chance = Random(SEED)
    moments: list[ChargeStage | None] = [*ChargeStage, None]
    when = sorted(chance.randint(1, DUE * 9 // 10) for _ in range(KILLS))
    plan = [Kill(after, moments[nth % len(moments)]) for nth, after in enumerate(when)]
    async with gateway_server(chance) as (gateway, socket):
        these = BillingWorkers(database, gateway, socket, figures, chance, plan)
        gateway.watch = these.watch
        try:
            await asyncio.gather(*(these.start_worker() for _ in range(WORKERS)))
            yield these
        finally:
            await these.close()


async def nothing_is_left(database: Database) -> bool:
    for mode in Mode:
        data = database.data(mode)
        status = await billing_cases.status(data, await billing_cases.clock(data))
        if status.renewals_due or status.recoveries_due or status.in_flight:
            return False
    return True


async def test_killed_billing_workers_charge_exactly_once(
    database: Database, owner: asyncpg.Connection, charges: Charges
) -> None:
    for mode in Mode:
        await owner.execute(_SHORT_LEASES.format(schema=mode.schema))
        data = database.data(mode)
        tenant, _keys = await tenants.create(database.core, f"Lagos Gym {mode}")
        await add_due(database, data, tenant, DUE // 2, await billing_cases.clock(data), CARDS)
    began = asyncio.get_running_loop().time()
    async with billing_workers(database, charges) as workers:
        await eventually(lambda: not workers.plan, "all planned kills have happened", PATIENCE_S)
        await workers.complete()
        await eventually(partial(nothing_is_left, database), "every due charge is settled", PATIENCE_S)
        await workers.stop()
        charges.took_s = asyncio.get_running_loop().time() - began
        gateway = workers.gateway
    account = await check_payments([database.data(mode) for mode in Mode], gateway.known)
    charges.due, charges.worked, charges.refused = DUE, account.charges, account.refusals
    charges.asked, charges.lost_answers = gateway.asked.total(), gateway.lost
