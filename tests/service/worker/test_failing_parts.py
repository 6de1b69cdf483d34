"""No part fails silently: readiness, metrics and the log show its mode and the reason until it recovers."""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from tenacity import wait_fixed

from delivery.engine import presence
from schema import polling
from schema.modes import Mode
from service import supervisor
from service.settings import Settings
from service.supervisor import Part, Supervisor
from service.worker import housekeeping
from service.worker.composition import Worker, worker
from service.worker.health_server import HealthServer
from service.worker.telemetry.exposition import Telemetry
from tests.support.servers.duro_process import eventually


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """A whole worker, running, as its probes see it."""

    worker: Worker
    clock: Clock
    url: str

    async def ready(self) -> list[str]:
        """Why it is not; empty: it is."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as response:
            said = json.loads(await response.text())
            assert (response.status == 200) == ("reasons" not in said)
            reasons: list[str] = said.get("reasons", [])
            return reasons

    async def metric(self, name: str, part: str) -> float:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as response:
            (line,) = [
                line
                for line in (await response.text()).splitlines()
                if line.startswith(f'{name}{{part="{part}"}}')
            ]
        return float(line.split()[-1])

    async def fails(self, *parts: str, times: int = 2) -> None:
        """Until each has failed so many times more."""
        before = {part: self.worker.failures.part(part).total for part in parts}
        failures = self.worker.failures
        await eventually(
            lambda: all(failures.part(part).total >= before[part] + times for part in parts), "they fail"
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that failed is tried again at once."""
    monkeypatch.setattr(polling, "wait_random_exponential", lambda **_: wait_fixed(0.02))
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(supervisor, "_LONGEST_BACKOFF_S", 0.02)
    monkeypatch.setattr(supervisor, "WELL_AFTER_S", 0.2)
    monkeypatch.setattr(presence, "SWEEP_EVERY_S", 0.05)
    monkeypatch.setattr(presence, "CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(housekeeping, "_EVERY_S", 0.05)
    monkeypatch.setattr(housekeeping, "_RETRY_S", 0.05)
    monkeypatch.setattr(presence, "SWEEP_RETRY_S", 0.05)


@asynccontextmanager
async def started(
    db_url: str, key: bytes, superuser: asyncpg.Connection, broken_by: Sequence[str] = ()
) -> AsyncIterator[Running]:
    """It is broken after it has registered and before its parts begin."""
    clock, stop = Clock(), asyncio.Event()
    async with worker(Settings(), db_url, key, clock) as this:
        http = HealthServer(this, Telemetry(this), stop)
        url = await http.bind("127.0.0.1", 0)
        await this.register()
        for statement in broken_by:
            await superuser.execute(statement)
        whole = Supervisor([[Part("http", http)], *this.stages()], this.failures, patience_s=5)
        task = asyncio.create_task(whole.run(stop))
        try:
            yield Running(this, clock, url)
        finally:
            stop.set()
            await task


PARTS = [
    "presence",
    "housekeeping",
    "analyst watch",
    *(
        f"{name} test"
        for name in (
            "attempt folder",
            "health watch",
            "dispatcher",
            "fanout",
            "activity",
            "rollups",
            "sequencer",
        )
    ),
]
"""Those that ask the database although there is nothing to do."""
BREAK = (
    "REVOKE USAGE ON SCHEMA sandbox FROM duro_sandbox",
    "ALTER TABLE core.workers RENAME TO elsewhere",
    "ALTER FUNCTION core.stop_runaway_queries() RENAME TO elsewhere",
)
MEND = (
    "GRANT USAGE ON SCHEMA sandbox TO duro_sandbox",
    "ALTER TABLE core.elsewhere RENAME TO workers",
    "ALTER FUNCTION core.elsewhere() RENAME TO stop_runaway_queries",
)


async def test_a_failing_part_is_reported_until_it_recovers(
    db_url: str, key: bytes, superuser: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(db_url, key, superuser, BREAK) as running:
        await running.fails(*PARTS)
        running.clock.now += 9.9
        assert await running.ready() == []
        running.clock.now += 0.1
        await running.fails(*PARTS)  # a later failure does not make it seem shorter
        reasons = await running.ready()
        for part in PARTS:
            assert any(reason.startswith(f"{part}: ") for reason in reasons), part
            assert await running.metric("duro_part_failing_seconds", part) == 10
            assert await running.metric("duro_part_failures_total", part) >= 2
        assert not [reason for reason in reasons if " live: " in reason]
        assert await running.metric("duro_part_failing_seconds", "sequencer live") == 0
        (reason,) = [reason for reason in reasons if reason.startswith("sequencer test: ")]
        assert "sequence_events(unknown) does not exist (SQLSTATE 42883)" in reason

        for statement in MEND:
            await superuser.execute(statement)
        failures = [
            part for part in running.worker.failures if part.name != "metrics"
        ]  # read by scrapes alone
        await eventually(lambda: not any(part.any for part in failures), "all are well")
        assert await running.ready() == []
        assert await running.metric("duro_part_failing_seconds", "presence") == 0
    assert "sequencer test: sequence events works again after 10.0 s" in " ".join(map(text, caplog.records))


async def test_a_failing_part_logs_one_traceback_and_one_line_per_minute(
    db_url: str, key: bytes, superuser: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(db_url, key, superuser, BREAK) as running:
        for minute in range(3):
            await running.fails(*PARTS, times=5)
            for part in PARTS:
                lines = Counter(operation(r) for r in caplog.records if text(r).startswith(f"{part}: "))
                assert max(lines.values()) == minute + 1, part
            running.clock.now += 60
    tracebacks = Counter(operation(record) for record in caplog.records if "Traceback" in text(record))
    assert set(tracebacks.values()) == {1}


def operation(record: logging.LogRecord) -> str:
    return re.split(" failed: | has been failing ", text(record))[0]


async def test_housekeeping_that_fails_in_one_mode_runs_in_the_other(
    db_url: str, key: bytes, superuser: asyncpg.Connection
) -> None:
    """The mode that fails is the first one, and the job hourly."""
    ahead = "SELECT {}.partitions_ahead()"
    month = await superuser.fetchval("SELECT to_char(now() + interval '1 month', 'YYYY_MM')")
    broken_by = [
        "ALTER FUNCTION sandbox.ensure_partitions RENAME TO elsewhere",
        *(f"DROP TABLE {mode.schema}.events_{month}" for mode in Mode),
    ]
    async with started(db_url, key, superuser, broken_by) as running:
        await running.fails("housekeeping")
        await eventually(lambda: _is(superuser, ahead.format("live"), 12), "live has its partitions")
        assert await superuser.fetchval(ahead.format("sandbox")) == 11
        running.clock.now += 10
        (reason,) = await running.ready()
        assert reason.startswith("housekeeping: make partitions of mode test has been failing since ")
        await superuser.execute("ALTER FUNCTION sandbox.elsewhere RENAME TO ensure_partitions")
        await eventually(
            lambda: _is(superuser, ahead.format("sandbox"), 12), "the other one too, before long"
        )


async def _is(connection: asyncpg.Connection, question: str, answer: int) -> bool:
    return bool(await connection.fetchval(question) == answer)


async def test_a_worker_that_keeps_dead_lettering_is_not_ready(
    db_url: str, key: bytes, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    """A single event does not do it: the next one that is applied, or that there is no next one, ends it."""
    record = "SELECT sandbox.record_event($1::uuid, 'invoice_created', '{}'::jsonb) FROM generate_series(1, $2::int)"
    await superuser.execute(
        "CREATE FUNCTION sandbox.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE unique_violation; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON sandbox.activity FOR EACH ROW EXECUTE FUNCTION sandbox.refuse()"
    )
    async with started(db_url, key, superuser) as running:
        await superuser.execute(record, tenant, 8)
        await running.fails("activity test", times=4)
        running.clock.now += 10
        (reason,) = await running.ready()
        assert reason.startswith("activity test: apply events has been failing since ")
        assert reason.endswith("the database refused the data (UniqueViolationError, SQLSTATE 23505)")
        activity = running.worker.modes[0].projections["activity"]
        await eventually(lambda: activity.dead_lettered == 8, "all are dead-lettered")
        await eventually(
            lambda: not running.worker.failures.part("activity test").any, "there is no next one"
        )
        assert await running.ready() == []


def text(record: logging.LogRecord) -> str:
    return record.getMessage()
