"""No database failure dead-letters an event, drops a result or repeats a delivery.

Each case causes a failure while events are recorded, sequenced, fanned out, delivered, retried and folded. It lasts
longer than every timeout and ends. Then all work continues without help.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from consumers import consumer
from consumers.activity.activity_consumer import Activity
from consumers.attempt_folding import AttemptFolder
from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.rollups.rollups_consumer import Rollups
from delivery.engine.presence import Presence
from schema.connections import database as databases
from schema.connections.database import Database
from schema.event_log import log
from service import supervisor
from service.supervisor import Part, Supervisor
from tests.support.database_failures import end_sessions, failing_writes, locked
from tests.support.engine import AT_ONCE, Engine, add_endpoint, engine
from tests.support.servers.connections import OWNER, SUPERUSER, Connect
from tests.support.servers.receiver import OK, Answer, Received, receiving

CONSUMERS = ("fanout", "activity", "rollups")
EVENTS = 4
HOT = (
    *(
        "events",
        "event_log",
        "cursors",
        "consumers",
        "sequencer",
        "sequencer_lock",
        "projections",
        "dead_events",
    ),
    *("webhook_deliveries", "webhook_attempts", "attempt_folds", "attempt_folds_lock", "delivery_hours"),
    *("endpoint_health", "activity_g1", "event_hours_g1", "delivery_switches"),
    *("core.webhook_endpoints", "core.webhook_endpoint_secrets", "core.workers", "core.tenants"),
)
ROWS = (
    "webhook_deliveries",
    "consumers",
    "endpoint_health",
    "core.webhook_endpoints",
    "core.workers",
    "projections",
)
WRITTEN = ("cursors", "event_log", "webhook_deliveries", "webhook_attempts", "endpoint_health", "activity_g1")
STATES = ("53100", "57014", "42501", "XX000")


@dataclass
class Workload:
    engine: Engine
    consumers: Sequence[Consumer]
    superuser: asyncpg.Connection
    tenant: UUID
    received: list[str]
    refused: list[str]
    expected: int = 0

    async def record(self, count: int = EVENTS) -> None:
        for _ in range(count):
            await self.superuser.execute(
                "SELECT record_event($1::uuid, 'invoice_created', '{\"amount\": 5}')", self.tenant
            )
            self.expected += 1

    async def wait_done(self, what: object) -> None:
        until = asyncio.get_running_loop().time() + 30
        while not await self._is_done():
            assert asyncio.get_running_loop().time() < until, (what, await self._standing())
            await asyncio.sleep(0.02)

    async def _standing(self) -> list[object]:
        rows = await self.superuser.fetch(
            "SELECT status, lane, lease IS NOT NULL, due_at - now(), count(*) FROM webhook_deliveries GROUP BY 1, 2, 3, 4"
        )
        return [*rows, *await log.consumer_status(self.superuser, CONSUMERS)]

    async def _is_done(self) -> bool:
        settled = await self.superuser.fetchval(
            "SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered' AND lease IS NULL"
        )
        status = await log.consumer_status(self.superuser, CONSUMERS)
        return settled == self.expected and all(each.lag == 0 for each in status)

    async def assert_nothing_was_lost(self, what: object) -> None:
        assert await self.superuser.fetchval("SELECT count(*) FROM dead_events") == 0, what
        attempts = await self.superuser.fetchval("SELECT count(*) FROM webhook_attempts WHERE settled")
        assert len(self.received) == attempts == self.expected + len(self.refused), what
        assert len(set(self.received)) == self.expected, what
        assert (self.engine.settler.fenced_off, self.engine.settler.waiting) == (0, 0), what
        assert self.engine.dispatcher.in_flight == 0, what


@pytest.fixture
async def workload(
    db_url: str, key: bytes, tenant: UUID, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workload]:
    """The receiver fails every fifth event's first request. The retry succeeds."""
    monkeypatch.setattr(databases, "STATEMENT_TIMEOUT", "1500ms")
    monkeypatch.setattr(databases, "LOCK_TIMEOUT", "60ms")
    monkeypatch.setattr(consumer, "TRIES_PER_BATCH", 1)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(supervisor, "_LONGEST_BACKOFF_S", 0.2)
    received: list[str] = []
    refused: list[str] = []

    def answer(request: Received) -> Answer:
        retried = request.event_id in received
        received.append(request.event_id)
        if retried or len(received) % 5:
            return OK
        refused.append(request.event_id)
        return Answer(status=500)

    async with (
        receiving() as receiver,
        Database.open(db_url, key) as database,
        _engine(database) as (ours, presence),
    ):
        receiver.answer = answer
        await add_endpoint(database, tenant, receiver.url)
        projections = [Consumer(ours.pool, ProjectionHandler(each)) for each in (Activity(), Rollups())]
        stop = asyncio.Event()
        stages = [
            [Part("presence", presence)],
            [Part("settler", ours.settler)],
            [Part("dispatcher", ours.dispatcher)],
            [Part("fanout", ours.fanout), Part("sequencer", ours.sequencer)],
            [Part(each._handler.name, each) for each in projections],
            [Part("attempt folder", AttemptFolder(ours.pool))],
        ]
        running = asyncio.create_task(Supervisor(stages).run(stop))
        yield Workload(ours, [ours.fanout, *projections], await connect(SUPERUSER), tenant, received, refused)
        stop.set()
        await asyncio.wait_for(running, 20)


@asynccontextmanager
async def _engine(database: Database) -> AsyncIterator[tuple[Engine, Presence]]:
    presence = Presence(database, "one")
    await presence.register()
    async with engine(database, policy=AT_ONCE, worker_id=lambda: presence.worker_id) as ours:
        yield ours, presence


async def test_locks_longer_than_every_timeout_lose_nothing(workload: Workload, connect: Connect) -> None:
    """The locks are those of schema changes and index builds on whole tables, and of all rows."""
    holder, observer = await connect(SUPERUSER), await connect(SUPERUSER)
    cases = [f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE" for table in HOT]
    cases += [f"LOCK TABLE {', '.join(HOT)} IN SHARE MODE"]
    cases += [f"SELECT count(*) FROM (SELECT FROM {table} FOR UPDATE) AS held" for table in ROWS]
    for case in cases:
        await workload.record()
        async with locked(holder, observer, case, waits=4):
            recording = asyncio.create_task(workload.record())
        await recording
        await workload.wait_done(case)
        await workload.assert_nothing_was_lost(case)
    assert all(consumer._size == 1000 for consumer in workload.consumers)


async def test_server_errors_lose_nothing(workload: Workload, connect: Connect) -> None:
    owner = await connect(OWNER)
    for state in STATES:
        await workload.record()
        async with failing_writes(owner, WRITTEN, state, times=14):
            pass
        await workload.record()
        await workload.wait_done(state)
        await workload.assert_nothing_was_lost(state)


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_cancelled_statements_and_ended_sessions_lose_nothing(
    workload: Workload, connect: Connect, how: str
) -> None:
    killer, ended = await connect(SUPERUSER), 0
    while ended < 60:
        await workload.record(1)
        for _ in range(5):
            ended += await end_sessions(killer, how)
            await asyncio.sleep(0.003)
    await workload.wait_done(how)
    await workload.assert_nothing_was_lost(how)


@pytest.mark.parametrize(
    ("failure", "recovery"),
    [
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1"),
        ("NOLOGIN", "LOGIN"),
    ],
    ids=["no connections left", "no login"],
)
async def test_a_server_that_rejects_logins_loses_nothing(
    workload: Workload, failure: str, recovery: str
) -> None:
    for role in ("duro_sandbox", "duro_core"):
        await workload.superuser.execute(f"ALTER ROLE {role} {failure}")
    try:
        await end_sessions(workload.superuser)
        await workload.record(20)
        await asyncio.sleep(0.5)  # long enough for many tries of each part
        assert not await workload._is_done()
    finally:
        for role in ("duro_sandbox", "duro_core"):
            await workload.superuser.execute(f"ALTER ROLE {role} {recovery}")
        await end_sessions(workload.superuser)
    await workload.wait_done(failure)
    await workload.assert_nothing_was_lost(failure)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="duro-small-disk-"))
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "none", directory], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        directory.rmdir()
        pytest.skip("only root may mount a small tmpfs")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
        directory.rmdir()


def _give_to_owner_of(data_directory: str, store: Path) -> None:
    owner = Path(data_directory).stat()
    store.mkdir()
    store.parent.chmod(0o755)
    os.chown(store, owner.st_uid, owner.st_gid)


async def test_a_full_disk_loses_nothing(workload: Workload, small_disk: Path) -> None:
    """The disk holds the tables that grow with every delivery."""
    store = small_disk / "tablespace"
    _give_to_owner_of(await workload.superuser.fetchval("SHOW data_directory"), store)
    name = f"small_{small_disk.name.rpartition('-')[2]}"
    await workload.superuser.execute(f"CREATE TABLESPACE {name} LOCATION '{store}'")
    leaves = await workload.superuser.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent IN"
        " ('event_log'::regclass, 'webhook_deliveries'::regclass, 'webhook_attempts'::regclass)"
    )
    try:
        for leaf in leaves:
            await workload.superuser.execute(f"ALTER TABLE {leaf['name']} SET TABLESPACE {name}")
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 16384))
        await workload.record(400)
        async with asyncio.timeout(30):
            while shutil.disk_usage(small_disk).free > 0:  # noqa: ASYNC110  nor does a disk
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # long enough for many tries of each part
        assert not await workload._is_done()
        filler.unlink()
        await workload.wait_done("full disk")
        await workload.assert_nothing_was_lost("full disk")
    finally:
        (small_disk / "filler").unlink(missing_ok=True)
        for leaf in leaves:
            await workload.superuser.execute(f"ALTER TABLE {leaf['name']} SET TABLESPACE pg_default")
        await workload.superuser.execute(f"DROP TABLESPACE {name}")
