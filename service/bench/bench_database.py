"""A fresh database with tenants, endpoints and events, and the workers that run on it."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from delivery.egress.guard import parse_cidrs
from schema.connections.database import Database
from schema.core import tenants
from schema.errors import Unavailable
from schema.modes import Mode
from schema.queries import load
from service.admin.endpoint_admin import EndpointAdmin, EndpointInput, endpoint_admin
from service.bench.bench_setup import BenchSetup
from service.bench.load.payload import EVENT_TYPE, data_for
from service.bench.processes.bench_process import Process, process
from service.settings import Settings

SQL: Final = load("bench")
MODE: Final = Mode.LIVE
EGRESS_ALLOW: Final = "127.0.0.0/8"
TENANTS: Final = 20
EVENTS_PER_TRANSACTION: Final = 100
_WORKER_STARTS_WITHIN_S: Final = 30.0
_STATEMENT_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The load: each event of a tenant goes to all `fan_out` endpoints of that tenant."""

    fan_out: int = 1
    body_bytes: int = 800
    tls: bool = False
    tenants: int = TENANTS
    hanging: int = 0
    """How many tenants have endpoints that accept requests and never answer."""

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        return (
            f"{self.tenants} tenants with {self.fan_out} endpoint{'s' * (self.fan_out > 1)} each, "
            f"{self.body_bytes / 1000:g} KB, {scheme}"
        )


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    setup: BenchSetup
    name: str
    """Name of the database."""
    database: Database
    owner: asyncpg.Connection
    shape: Shape
    tenants: Sequence[UUID]
    """Tenants whose endpoints answer."""
    hanging: Sequence[UUID]
    """Tenants whose endpoints hang."""

    @property
    def url(self) -> str:
        return self.database.url

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a duro process on this database."""
        return {
            "DURO_DATABASE_URL": self.url,
            "DURO_SECRET_KEY": b64encode(self.database.key).decode(),
            "DURO_EGRESS_ALLOW": EGRESS_ALLOW,
            **self.setup.certificate.trust,
        }

    async def now(self) -> datetime:
        moment: datetime = await self.owner.fetchval("SELECT clock_timestamp()")
        return moment

    async def record(self, events: int) -> None:
        """Records events as a producer would, 100 per transaction."""
        data, recipients = data_for(self.shape.body_bytes), list(self.tenants)
        statement = await self.owner.prepare(SQL["record"])
        for done in range(0, events, EVENTS_PER_TRANSACTION):
            count = min(EVENTS_PER_TRANSACTION, events - done)
            await statement.fetchval(recipients, EVENT_TYPE, data, count, timeout=_STATEMENT_WITHIN_S)
            if done % 5_000 == 0:
                self.setup.progress(f"recording events: {done:,} of {events:,}")

    @asynccontextmanager
    async def worker(self, profile: Path | None = None) -> AsyncIterator[Process]:
        """Starts a worker; yields once it has registered and polls."""
        before = await self.owner.fetchval(SQL["workers"])
        profiling = () if profile is None else ("-m", "cProfile", "-o", str(profile))
        arguments = (*profiling, "-m", "service.cli", "work", "--until-stdin-closes")
        async with process("worker", arguments, self.environment) as started:
            await self._registered(started, before + 1)
            yield started

    async def _registered(self, worker: Process, count: int) -> None:
        deadline = asyncio.get_running_loop().time() + _WORKER_STARTS_WITHIN_S
        while await self.owner.fetchval(SQL["workers"]) < count:
            if not worker.running:
                raise Unavailable(f"The worker ended unexpectedly: {worker.last_output}")
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"The worker did not start within {_WORKER_STARTS_WITHIN_S:g} s.")
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # leaves its startup out of the measurement


@asynccontextmanager
async def bench_database(setup: BenchSetup, shape: Shape) -> AsyncIterator[BenchDatabase]:
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(setup.scratch.fresh_database())
        database = await stack.enter_async_context(
            Database.open(
                setup.scratch.database_url(name), setup.scratch.key, name="duro bench", max_per_role=2
            )
        )
        owner = await stack.enter_async_context(setup.scratch.connect(name))
        created = await _create_tenants(setup, database, shape)
        hanging, answering = created[: shape.hanging], created[shape.hanging :]
        yield BenchDatabase(setup, name, database, owner, shape, answering, hanging)


async def _create_tenants(setup: BenchSetup, database: Database, shape: Shape) -> list[UUID]:
    """Returns the tenants, those with hanging endpoints first."""
    made = []
    async with endpoint_admin(Settings(egress_allow=parse_cidrs(EGRESS_ALLOW)), database) as admin:
        for number in range(shape.tenants):
            tenant_id, _api_keys = await tenants.create(database.core, f"Bench {number}")
            top = setup.receiver.url(tls=shape.tls) + ("/hang" if number < shape.hanging else "")
            await _create_endpoints(admin, tenant_id, f"{top}/{number}", shape.fan_out)
            made.append(tenant_id)
    return made


async def _create_endpoints(admin: EndpointAdmin, tenant_id: UUID, url: str, count: int) -> None:
    for number in range(count):
        await admin.create(tenant_id, MODE, f"{url}/{number}", EndpointInput(), None)
