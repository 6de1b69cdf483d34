"""Two renewal scanners and two dunning workers run concurrently and charge thousands of subscriptions exactly
once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from schema.billing import billing_cases
from schema.connections.database import Database
from schema.core import tenants
from schema.modes import Mode
from service.billing.engine import Engine, engine
from service.billing.gateway.gateway import Order, Outcome
from service.billing.scanning import Scanner
from service.supervisor import Part, Supervisor
from tests.faults.length import PATIENCE_S, SEED, length
from tests.support.billing.billing_world import GOOD_CARD, CountingGateway
from tests.support.billing.due import add_due
from tests.support.billing.payment_totals import check_payments

DUE = length(2_000, 10_000)
SLOWEST_S = 0.008
RENEWING = ("unanswered charges", "renewals", "trials")
RECOVERING = ("unanswered charges", "recoveries", "cards awaited")


class BusyGateway(CountingGateway):
    """Answers after some milliseconds, so that other work happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = Random(SEED)
        self.news = asyncio.Event()

    async def charge(self, order: Order) -> Outcome:
        await asyncio.sleep(self.chance.random() * SLOWEST_S)
        outcome = await super().charge(order)
        self.news.set()
        return outcome

    async def has_charged(self, count: int) -> None:
        while len(self.charged) < count:
            self.news.clear()
            await self.news.wait()


@asynccontextmanager
async def workers(url: str, key: bytes, gateway: BusyGateway, count: int) -> AsyncIterator[list[Engine]]:
    """Each has its own pools, like a separate process."""
    async with AsyncExitStack() as opened:
        databases = [await opened.enter_async_context(Database.open(url, key)) for _ in range(count)]
        yield [engine(database, Mode.TEST, gateway) for database in databases]
    await asyncio.sleep(0)  # the loop closes what has been terminated


def only(this: Engine, names: Sequence[str]) -> Supervisor:
    chosen: list[Scanner] = [scanner for scanner in this.scanners if scanner.name in names]
    return Supervisor([[Part("charges", this.charges)], [Part(each.name, each) for each in chosen]])


async def test_concurrent_scanners_charge_each_subscription_exactly_once(
    database: Database, db_url: str, key: bytes, record_property: Callable[[str, object], None]
) -> None:
    """No worker is killed, so no answer is lost and the gateway gets one request per charge."""
    gateway, loop, stop = BusyGateway(), asyncio.get_running_loop(), asyncio.Event()
    tenant, _keys = await tenants.create(database.core, "Ikeja Fitness Club")
    data = database.data(Mode.TEST)
    await add_due(database, data, tenant, DUE, await billing_cases.clock(data), [GOOD_CARD])
    async with workers(db_url, key, gateway, 4) as engines:
        began = loop.time()
        jobs = [RENEWING, RENEWING, RECOVERING, RECOVERING]
        running = [
            asyncio.create_task(only(this, names).run(stop))
            for this, names in zip(engines, jobs, strict=True)
        ]
        async with asyncio.timeout(PATIENCE_S):
            await gateway.has_charged(DUE)
            await asyncio.gather(*(this.charges.settled() for this in engines))
        took_s = loop.time() - began
        stop.set()
        await asyncio.gather(*running)
        assert [await scanner.step() for this in engines for scanner in this.scanners] == [0] * 24
    account = await check_payments([data], gateway.known)
    assert (account.charges, account.refusals) == (DUE, 0)
    assert set(gateway.charged.values()) == {1}
    record_property(
        "faults", f"exactly once: due {DUE}, charges {account.charges}, asked {DUE}, took {took_s:.1f} s"
    )
