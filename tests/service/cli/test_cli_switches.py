"""The operator's switches and limits: `duro endpoint pause | resume | enable --replay`, `--rate-limit`, `duro retries`."""

import asyncio
import re
import shlex
import signal
import subprocess
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries import replays
from schema.ids import ENDPOINT, format_id, parse_id
from schema.modes import Mode
from service.cli.tenants.endpoint_commands import update
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.service.cli.log_work import fan_out, settle_all
from tests.support.database_waits import until
from tests.support.engine import add_endpoint
from tests.support.events import record_many

URL = "https://shop.example/hooks"


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> str:
    return format_id(ENDPOINT, await add_endpoint(database, tenant, URL, event_types=["invoice_*"]))


async def seen_by_workers(database: Database, endpoint: str) -> tuple[bool, int | None]:
    """(paused, rate limit), by the view that claims read."""
    row = await database.data(Mode.TEST).fetchrow(
        "SELECT paused, rate_limit FROM webhook_endpoints WHERE id = $1", parse_id(ENDPOINT, endpoint)
    )
    assert row
    return row["paused"], row["rate_limit"]


async def test_pausing_an_endpoint_is_shown_and_reaches_the_workers(
    duro: Duro, ten: str, endpoint: str, database: Database
) -> None:
    paused = await duro.json("endpoint", "pause", endpoint)
    assert (paused["paused"], paused["enabled"]) == (True, True)
    assert await seen_by_workers(database, endpoint) == (True, None)
    assert "paused already" in (await duro("endpoint", "pause", endpoint)).refusal
    assert "enabled, paused" in (await duro("endpoint", "show", endpoint)).stdout
    assert "enabled, paused" in (await duro("endpoint", "list", "--tenant", ten, "--mode", "test")).stdout

    resumed = await duro.json("endpoint", "resume", endpoint)
    assert resumed["paused"] is False
    assert await seen_by_workers(database, endpoint) == (False, None)
    assert "is not paused" in (await duro("endpoint", "resume", endpoint)).refusal


async def test_a_rate_limit_is_set_changed_kept_and_removed(duro: Duro, ten: str, database: Database) -> None:
    arguments = ("--tenant", ten, "--mode", "test", "--url", URL, "--rate-limit", "50")
    created = (await duro.json("endpoint", "create", *arguments))["id"]
    assert await seen_by_workers(database, created) == (False, 50)
    assert (await duro.json("endpoint", "update", created, "--description", "x"))["rateLimit"] == 50
    assert (await duro.json("endpoint", "update", created, "--rate-limit", "10000"))["rateLimit"] == 10000
    assert "10000 deliveries per second" in (await duro("endpoint", "show", created)).stdout
    assert (await duro.json("endpoint", "update", created, "--rate-limit", "none"))["rateLimit"] is None
    assert await seen_by_workers(database, created) == (False, None)
    unlimited = await duro.json("endpoint", "create", *arguments[:-1], "none")
    assert (await duro.json("endpoint", "show", unlimited["id"]))["rateLimit"] is None


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "1.5", "", "¹", "many"])
async def test_a_rate_limit_beyond_its_bounds_is_refused(limit: str, duro: Duro, endpoint: str) -> None:
    refused = await duro("endpoint", "update", endpoint, f"--rate-limit={limit}")
    assert "from 1 to 10000 deliveries per second, or none" in refused.refusal


async def skipped_while_disabled(duro: Duro, database: Database, tenant: UUID, endpoint: str) -> None:
    """Seven that were skipped when it was out of service an hour ago, then five this time."""
    await duro.json("endpoint", "disable", endpoint)
    await record_many(database.data(Mode.TEST), tenant, 7)
    await fan_out(database)
    await duro.json("endpoint", "enable", endpoint)
    hour_ago = "SET {0} = {0} - interval '1 hour'".format
    await database.data(Mode.TEST).execute(f"UPDATE webhook_deliveries {hour_ago('settled_at')}")
    await database.core.execute(f"UPDATE webhook_endpoints {hour_ago('disabled_at')}")
    await duro.json("endpoint", "disable", endpoint)
    await record_many(database.data(Mode.TEST), tenant, 5)
    await fan_out(database)


async def pending(duro: Duro, ten: str) -> int:
    listed = await duro.json("delivery", "list", "--tenant", ten, "--mode", "test", "--limit", "100")
    return sum(item["status"] == "pending" for item in listed["items"])


async def test_enabling_shows_what_was_skipped_and_how_to_replay_it(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await skipped_while_disabled(duro, database, tenant, endpoint)
    result = await duro("endpoint", "enable", endpoint)
    assert "5 deliveries were skipped while it was disabled" in result.stdout
    [command] = [line for line in result.stdout.splitlines() if "duro delivery replay" in line]
    assert await pending(duro, ten) == 0
    replayed = await duro.json(*shlex.split(command)[1:])
    assert (replayed["replayed"], replayed["statuses"], replayed["endpointId"]) == (5, ["skipped"], endpoint)
    assert await pending(duro, ten) == 5


async def test_enabling_can_replay_immediately(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await skipped_while_disabled(duro, database, tenant, endpoint)
    result = await duro.json("endpoint", "enable", endpoint, "--replay")
    assert (result["enabled"], result["skipped"], result["replay"]["replayed"]) == (True, 5, 5)
    assert await pending(duro, ten) == 5


async def test_enabling_replays_everything_skipped(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "skipped_since", partial(replays.skipped_since, limit=2))
    for form in (["--replay", "--json"], []):
        await duro.json("endpoint", "disable", endpoint)
        await record_many(database.data(Mode.TEST), tenant, 5)
        await fan_out(database)
        result = await duro("endpoint", "enable", endpoint, *form)
        if form:
            assert (result.json["skipped"], result.json["skippedMore"]) == (3, True)
            assert result.json["replay"]["replayed"] == 5
            await settle_all(database, "delivered")
    assert "At least 3 deliveries were skipped" in result.stdout
    [command] = [line for line in result.stdout.splitlines() if "duro delivery replay" in line]
    assert (await duro.json(*shlex.split(command)[1:]))["replayed"] == 5


@pytest.mark.parametrize(
    ("refusing", "form"),
    [("webhook_deliveries", []), ("webhook_deliveries", ["--replay"]), ("webhook_replays", ["--replay"])],
)
async def test_a_failed_enabling_says_how_to_replay_the_rest(
    refusing: str, form: list[str], duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    await duro.json("endpoint", "disable", endpoint)
    await record_many(database.data(Mode.TEST), tenant, 5)
    await fan_out(database)
    await owner.execute(
        "CREATE FUNCTION sandbox.refuse() RETURNS boolean LANGUAGE plpgsql AS $$"
        " BEGIN RAISE 'refused' USING ERRCODE = 'insufficient_privilege'; END $$;"
        f"CREATE POLICY refuse ON sandbox.{refusing} USING (sandbox.refuse());"
        f"ALTER TABLE sandbox.{refusing} ENABLE ROW LEVEL SECURITY"
    )
    result = await duro("endpoint", "enable", endpoint, *form)
    assert result.status == 1
    await owner.execute(f"ALTER TABLE sandbox.{refusing} DISABLE ROW LEVEL SECURITY")
    assert await seen_by_workers(database, endpoint) == (False, None)
    command = re.search(
        r"replay the skipped deliveries with: duro (delivery replay .*)$", result.stderr, re.MULTILINE
    )
    assert command, result.stderr
    assert (await duro.json(*shlex.split(command[1])))["replayed"] == 5
    assert (
        "replay the skipped deliveries" not in (await duro("endpoint", "enable", endpoint)).stderr
    )  # it is enabled already


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_enabling_says_how_to_replay_the_rest(
    number: signal.Signals, duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database,
    owner: asyncpg.Connection, superuser: asyncpg.Connection,
) -> None:  # fmt: skip
    await duro.json("endpoint", "disable", endpoint)
    await record_many(database.data(Mode.TEST), tenant, 5)
    await fan_out(database)
    async with owner.transaction():
        await owner.execute("LOCK TABLE sandbox.webhook_replays IN ACCESS EXCLUSIVE MODE")
        process = duro.popen(
            "endpoint", "enable", endpoint, "--replay", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            await until(
                superuser,
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND application_name = 'duro cli' AND datname = current_database())",
            )
            process.send_signal(number)
            _, stderr = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    command = re.search(
        r"replay the skipped deliveries with: duro (delivery replay .*)$", stderr, re.MULTILINE
    )
    assert command, stderr
    assert (await duro.json(*shlex.split(command[1])))["replayed"] == 5


@pytest.mark.parametrize("form", [[], ["--replay"]])
async def test_enabling_when_nothing_was_skipped_says_so(form: list[str], duro: Duro, endpoint: str) -> None:
    await duro.json("endpoint", "disable", endpoint)
    assert "No deliveries were skipped" in (await duro("endpoint", "enable", endpoint, *form)).stdout
    assert "enabled already" in (await duro("endpoint", "enable", endpoint, "--replay")).refusal


async def test_retries_of_a_mode_are_paused_and_resumed(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record_many(database.data(Mode.TEST), tenant, 3)
    await fan_out(database)
    await settle_all(database, "failed")
    await duro.json("delivery", "replay", "--tenant", ten, "--mode", "test", "--since", "1h")
    before = await duro.json("retries", "status", "--mode", "test")
    assert before == {"mode": "test", "pausedAt": None, "waiting": 3}

    paused = await duro.json("retries", "pause", "--mode", "test")
    assert paused["pausedAt"] is not None
    assert await duro.json("retries", "status", "--mode", "test") == paused
    assert "already paused in mode test" in (await duro("retries", "pause", "--mode", "test")).refusal
    assert (await duro.json("retries", "status", "--mode", "live"))["pausedAt"] is None
    assert (await duro.json("consumers", "status"))["retriesPausedIn"] == ["test"]
    assert "duro retries resume --mode test" in (await duro("consumers", "status")).stdout
    assert "paused since" in (await duro("retries", "status", "--mode", "test")).stdout

    assert (await duro.json("retries", "resume", "--mode", "test"))["pausedAt"] is None
    assert "are not paused" in (await duro("retries", "resume", "--mode", "test")).refusal
    assert "paused" not in (await duro("consumers", "status")).stdout


async def test_an_empty_update_names_every_option(duro: Duro, endpoint: str) -> None:
    words = (await duro("endpoint", "update", endpoint)).refusal
    options = {option.opts[0] for option in update.params if option.opts[0].startswith("--")}
    assert options - {"--json", "--data-dir"} == set(re.findall(r"--[a-z-]+", words)) - {"--help"}
