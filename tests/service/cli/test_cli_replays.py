"""Replays of many by `duro delivery replay` and `duro endpoint backfill`: begun, watched, cut short, resumed."""

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, tzinfo
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries.replay_steps import STEP
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from service.cli.deliveries import replaying
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.service.cli.log_work import fan_out, settle_all
from tests.support.database_waits import until
from tests.support.engine import add_endpoint
from tests.support.events import record, record_many

URL = "https://shop.example/hooks"
MANY = 2 * STEP + 500


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> str:
    return format_id(ENDPOINT, await add_endpoint(database, tenant, URL, event_types=["invoice_*"]))


@pytest.fixture
async def failed(database: Database, tenant: UUID, endpoint: str) -> None:
    """More deliveries that failed than two steps replay."""
    await record_many(database.data(Mode.TEST), tenant, MANY)
    await fan_out(database)
    await settle_all(database, "failed")


async def statuses(database: Database) -> dict[str, int]:
    rows = await database.data(Mode.TEST).fetch(
        "SELECT status, count(*) AS count FROM webhook_deliveries GROUP BY status"
    )
    return {row["status"]: row["count"] for row in rows}


async def jobs(duro: Duro, ten: str) -> list[dict[str, Any]]:
    listed = await duro.json("delivery", "replays", "--tenant", ten, "--mode", "test")
    return list(listed["items"])


async def test_deliveries_are_replayed_by_status_endpoint_and_time(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    """More than one step's worth; those delivered are left alone unless asked for."""
    other = format_id(ENDPOINT, await add_endpoint(database, tenant, URL))
    await record_many(database.data(Mode.TEST), tenant, 700)
    await fan_out(database)
    await settle_all(database, "failed")
    many = ("delivery", "replay", "--tenant", ten, "--mode", "test", "--since")
    assert (await duro.json(*many, "2h", "--until", "1h"))["replayed"] == 0
    assert (await duro.json(*many, "1h", "--status", "skipped"))["replayed"] == 0
    of_other = await duro.json(*many, "1h", "--endpoint", other)
    assert (of_other["replayed"], of_other["examined"], of_other["endpointId"]) == (700, 1400, other)
    rest = await duro.json(*many, "1h")
    assert (rest["replayed"], rest["examined"], rest["progress"]) == (700, 700, 1.0)
    await settle_all(database, "delivered")
    assert (await duro.json(*many, "1h"))["replayed"] == 0
    assert (await duro.json(*many, "1h", "--status", "delivered"))["replayed"] == 1400


async def test_deliveries_are_replayed_since_a_position(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record_many(database.data(Mode.TEST), tenant, 10)
    await fan_out(database)
    await settle_all(database, "failed")
    many = ("delivery", "replay", "--tenant", ten, "--mode", "test", "--since-pos")
    outcome = await duro.json(*many, "4", "--until-pos", "6")
    assert (outcome["replayed"], outcome["afterPosition"], outcome["untilPosition"]) == (2, 4, 6)
    assert (await duro.json(*many, "0"))["replayed"] == 8


async def test_a_backfill_sends_past_events_of_its_types(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    pool = database.data(Mode.TEST)
    await record_many(pool, tenant, 3)
    await record(pool, tenant, "subscription_created")
    await record(pool, tenant, "webhook_test")
    everything = await add_endpoint(database, tenant, URL)
    assert (await duro.json("endpoint", "backfill", endpoint, "--since", "1h"))["replayed"] == 3
    assert (await duro.json("endpoint", "backfill", endpoint, "--since", "1h"))["replayed"] == 0
    await fan_out(database)
    outcome = await duro("endpoint", "backfill", format_id(ENDPOINT, everything), "--since-pos", "0")
    assert "0 deliveries created for 5 events" in outcome.stdout
    late = format_id(ENDPOINT, await add_endpoint(database, tenant, URL))
    backfilled = await duro.json("endpoint", "backfill", late, "--since-pos", "0")
    assert (backfilled["kind"], backfilled["replayed"], backfilled["examined"]) == ("backfill", 4, 5)
    assert [job["kind"] for job in await jobs(duro, ten)] == ["backfill"] * 4


async def test_a_disabled_endpoint_is_not_backfilled(duro: Duro, ten: str, endpoint: str) -> None:
    await duro.json("endpoint", "disable", endpoint)
    refused = await duro("endpoint", "backfill", endpoint, "--since", "1h")
    assert f"duro endpoint enable {endpoint}" in refused.refusal
    assert await jobs(duro, ten) == []


@asynccontextmanager
async def in_the_second_step(
    duro: Duro, ten: str, owner: asyncpg.Connection, superuser: asyncpg.Connection
) -> AsyncIterator["subprocess.Popen[str]"]:
    """A process that replays everything and waits in its second step for as long as this context lasts."""
    async with owner.transaction():
        await owner.execute(
            "SELECT FROM sandbox.webhook_deliveries WHERE id ="
            " (SELECT id FROM sandbox.webhook_deliveries ORDER BY created_at, id OFFSET $1 LIMIT 1) FOR UPDATE",
            STEP,
        )
        process = duro.popen(
            "delivery", "replay", "--tenant", ten, "--mode", "test", "--since", "1h",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            await until(
                superuser,
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND application_name = 'duro cli' AND datname = current_database())",
            )
            yield process
        finally:
            process.kill()


async def test_a_killed_replay_resumes_without_repeating(
    duro: Duro,
    ten: str,
    failed: None,
    owner: asyncpg.Connection,
    superuser: asyncpg.Connection,
    database: Database,
) -> None:
    async with in_the_second_step(duro, ten, owner, superuser) as process:
        process.kill()
        await asyncio.to_thread(process.communicate, timeout=PATIENCE)
        [job] = await jobs(duro, ten)
        assert (job["replayed"], job["finishedAt"]) == (STEP, None)
        listed = await duro("delivery", "replays", "--tenant", ten, "--mode", "test")
        assert "UNFINISHED" in listed.stdout
        assert "duro delivery replay --resume" in listed.stdout
    await settle_all(database, "failed")  # the replayed deliveries have failed again
    resumed = await duro.json("delivery", "replay", "--resume", job["id"])
    assert (resumed["id"], resumed["replayed"], resumed["examined"]) == (job["id"], MANY, MANY)
    assert await statuses(database) == {"failed": STEP, "pending": MANY - STEP}
    assert "start a new one" in (await duro("delivery", "replay", "--resume", job["id"])).refusal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_prints_how_to_resume(
    number: signal.Signals,
    duro: Duro,
    ten: str,
    failed: None,
    owner: asyncpg.Connection,
    superuser: asyncpg.Connection,
    database: Database,
) -> None:
    async with in_the_second_step(duro, ten, owner, superuser) as process:
        process.send_signal(number)
        stdout, stderr = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    outcome = re.search(
        r"duro: Stopped. Resume with: duro (delivery replay --resume rpl_\w+)$", stderr.strip()
    )
    assert outcome, stderr
    assert (await duro.json(*outcome[1].split()))["replayed"] == MANY
    assert await statuses(database) == {"pending": MANY}


async def test_a_lost_connection_says_how_to_resume(
    duro: Duro, ten: str, failed: None, owner: asyncpg.Connection, superuser: asyncpg.Connection
) -> None:
    async with in_the_second_step(duro, ten, owner, superuser) as process:
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND application_name = 'duro cli' AND datname = current_database()"
        )
        _, stderr = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert re.search(
        r"went away in the middle .* resume with: duro delivery replay --resume rpl_\w+$", stderr
    )


async def test_a_failing_job_says_how_to_resume(
    duro: Duro, ten: str, failed: None, owner: asyncpg.Connection
) -> None:
    await owner.execute(
        "ALTER TABLE sandbox.webhook_replays ADD CONSTRAINT not_today CHECK (replayed = 0) NOT VALID"
    )
    outcome = await duro.process("delivery", "replay", "--tenant", ten, "--mode", "test", "--since", "1h")
    assert outcome.status == 1
    assert re.search(
        r"^duro: Stopped. Resume with: duro delivery replay --resume rpl_\w+$", outcome.stderr, re.MULTILINE
    )
    assert "not_today" in outcome.stderr


async def test_a_clock_behind_the_databases_omits_nothing(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Behind":
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr(replaying, "datetime", Behind)
    await record_many(database.data(Mode.TEST), tenant, 3)
    await fan_out(database)
    await settle_all(database, "failed")
    many = ("delivery", "replay", "--tenant", ten, "--mode", "test", "--since")
    assert (await duro.json(*many, "1m"))["replayed"] == 3


async def test_a_replay_says_what_blocks_it(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record(database.data(Mode.TEST), tenant)
    await fan_out(database)
    await settle_all(database, "failed")
    await duro.json("retries", "pause", "--mode", "test")
    await duro.json("endpoint", "pause", endpoint)
    many = ("delivery", "replay", "--tenant", ten, "--mode", "test", "--since", "1h")
    outcome = await duro(*many, "--endpoint", endpoint)
    [listed] = (await duro.json("delivery", "list", "--tenant", ten, "--mode", "test"))["items"]
    for words in (outcome.stderr, (await duro("delivery", "replay", listed["id"])).stdout):
        assert "duro retries resume --mode test" in words
        assert f"duro endpoint resume {endpoint}" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--since-pos", "5", "--until-pos", "5"], "must be less than --until-pos"),
        (["--since", "1h", "--since-pos", "5"], "exclude each other"),
        (["--since-pos", "5", "--until", "1h"], "exclude each other"),
        (["--until", "1h"], "--since-pos"),
        (["--since", "2190-01-01T00:00:00Z"], "must be before --until"),
        (["--since", "0001-01-01T00:00:00Z"], "between 1970 and 2200"),
        (["--since", "1h", "--until", "9999-12-31T23:59:59.999999Z"], "between 1970 and 2200"),
        (["--since-pos", "-1"], "-1"),
        (["--since-pos", str(2**63)], str(2**63)),
        (["--resume", "rpl_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"], "takes no other options: leave them out"),
    ],
)
async def test_an_invalid_span_is_refused_before_a_job_exists(
    arguments: list[str], sentence: str, duro: Duro, ten: str
) -> None:
    outcome = await duro("delivery", "replay", "--tenant", ten, "--mode", "test", *arguments)
    assert sentence in outcome.refusal
    assert await jobs(duro, ten) == []


async def test_an_unknown_replay_is_named(duro: Duro) -> None:
    outcome = await duro("delivery", "replay", "--resume", "rpl_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6")
    assert "There is no replay rpl_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6 in either mode" in outcome.refusal
    assert "--since-pos 0" in (await duro("endpoint", "backfill", "we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6")).refusal
