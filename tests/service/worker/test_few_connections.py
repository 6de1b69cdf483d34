"""A worker opens as many connections as it may and no more, delivers with the fewest, and shows when the server allows
fewer still."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from schema.connections.connection_budget import MIN_CONNECTIONS
from schema.connections.database import Database
from schema.core import tenants
from schema.modes import Mode
from service.settings import Settings
from service.supervisor import Part, Supervisor
from service.worker.composition import Worker, worker
from service.worker.health_server import HealthServer
from service.worker.telemetry.exposition import Telemetry
from tests.support.engine import add_endpoint
from tests.support.servers.duro_process import eventually
from tests.support.servers.receiver import Receiver, receiving

EVENTS = 300
OTHERS = 1
"""The superuser's own connection, which the database's limit counts too."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    worker: Worker
    clock: Clock
    url: str

    async def reasons(self) -> list[str]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as response:
            reasons: list[str] = json.loads(await response.text()).get("reasons", [])
            return reasons


@asynccontextmanager
async def working(db_url: str, key: bytes) -> AsyncIterator[Site]:
    settings = Settings.read(
        {"DURO_EGRESS_ALLOW": "127.0.0.0/8", "DURO_DATABASE_CONNECTIONS": str(MIN_CONNECTIONS)}
    )
    clock, stop = Clock(), asyncio.Event()
    async with worker(settings, db_url, key, clock) as this:
        http = HealthServer(this, Telemetry(this), stop)
        url = await http.bind("127.0.0.1", 0)
        await this.register()
        whole = Supervisor([[Part("http", http)], *this.stages()], this.failures, patience_s=10)
        task = asyncio.create_task(whole.run(stop))
        try:
            yield Site(this, clock, url)
        finally:
            stop.set()
            await task


@pytest.fixture
async def receiver(db_url: str, key: bytes) -> AsyncIterator[tuple[Receiver, UUID]]:
    """And the tenant that has an endpoint there, in both modes. No connection is left behind."""
    async with receiving() as receiver:
        async with Database.open(db_url, key, max_per_role=1) as database:
            tenant, _keys = await tenants.create(database.core, "Lagos Gym")
            for mode in Mode:
                await add_endpoint(database, tenant, f"{receiver.url}/{mode}", mode=mode)
        yield receiver, tenant


async def limit(superuser: asyncpg.Connection, connections: int) -> None:
    """Of all roles together, superusers excepted."""
    name = await superuser.fetchval("SELECT current_database()")
    await eventually(lambda: _are_gone(superuser), "earlier connections are gone")
    await superuser.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {connections}")


async def _are_gone(superuser: asyncpg.Connection) -> bool:
    count: int = await superuser.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'duro\\_%'"
    )
    return count == 0


async def record(superuser: asyncpg.Connection, tenant: UUID, count: int) -> None:
    for mode in Mode:
        await superuser.execute(
            f"SELECT {mode.schema}.record_event($1::uuid, 'invoice_created', '{{}}'::jsonb)"
            "  FROM generate_series(1, $2::int)",
            tenant,
            count,
        )


async def test_the_minimum_of_connections_serves_both_modes(
    db_url: str, key: bytes, superuser: asyncpg.Connection, receiver: tuple[Receiver, UUID]
) -> None:
    """The server would refuse one more. Projections, counting and metrics go on beside the deliveries."""
    got, tenant = receiver
    await limit(superuser, MIN_CONNECTIONS + OTHERS)
    async with working(db_url, key) as site:
        await record(superuser, tenant, EVENTS)
        async with aiohttp.ClientSession() as http:
            await eventually(lambda: len(got.event_ids()) == 2 * EVENTS, "all are delivered")
            async with http.get(f"{site.url}/metrics") as response:
                assert 'duro_database_up{schema="live"} 1.0' in await response.text()
        for mode in Mode:
            await eventually(lambda mode=mode: _is_shown(superuser, mode), "the feed has them")  # type: ignore[misc]
        assert await site.reasons() == []
        assert [part.name for part in site.worker.failures if part.total] == []


async def _is_shown(superuser: asyncpg.Connection, mode: Mode) -> bool:
    return bool(await superuser.fetchval(f"SELECT count(*) = $1 FROM {mode.schema}.activity", EVENTS))


async def test_readiness_says_what_to_raise_when_the_server_allows_too_few(
    db_url: str, key: bytes, superuser: asyncpg.Connection, receiver: tuple[Receiver, UUID]
) -> None:
    got, tenant = receiver
    await limit(superuser, MIN_CONNECTIONS + OTHERS)
    async with working(db_url, key) as site:
        assert await site.reasons() == []
        name = await superuser.fetchval("SELECT current_database()")
        await superuser.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {MIN_CONNECTIONS + OTHERS - 1}")
        pid = await superuser.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE usename = 'duro_live' AND datname = current_database()"
            " ORDER BY backend_start DESC LIMIT 1"
        )
        await superuser.execute("SELECT pg_terminate_backend($1)", pid)
        await eventually(lambda: any(part.refused_at for part in site.worker.failures), "one is refused")
        reason = (await site.reasons())[-1]
        assert reason == (
            f'the database refuses more connections (too many connections for database "{name}"): '
            "raise max_connections, or the CONNECTION LIMIT of the role or the database; "
            "or lower DURO_DATABASE_CONNECTIONS or the number of workers"
        )
        await superuser.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        await eventually(lambda: not any(part.any for part in site.worker.failures), "all are well again")
        site.clock.now += 29.9
        assert await site.reasons() == [reason]
        site.clock.now += 0.1
        assert await site.reasons() == []
        await record(superuser, tenant, 10)
        await eventually(lambda: len(got.event_ids()) == 20, "all are delivered")
