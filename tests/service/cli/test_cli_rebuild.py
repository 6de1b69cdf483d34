"""`duro consumers rebuild` reports progress, resumes after a kill, and keeps the serving generation until the end."""

import asyncio
import signal
import subprocess
from uuid import UUID

import asyncpg
import pytest

from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from schema.connections.database import Database, Pool
from schema.modes import Mode
from schema.read_models import projections
from schema.read_models.projections import Generations
from service.worker.projection_consumers import PROJECTIONS
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.support.database_waits import until
from tests.support.events import record_many, sequence_all

EVENTS = 3_000


@pytest.fixture
async def data(database: Database, tenant: UUID) -> Pool:
    """With events that every projection has applied."""
    data = database.data(Mode.TEST)
    await record_many(data, tenant, EVENTS)
    await sequence_all(data)
    for projection in PROJECTIONS:
        consumer = Consumer(data, ProjectionHandler(projection))
        while await consumer.step():
            pass
    return data


async def lines(data: Pool) -> dict[int, int]:
    """How many the feed has, by generation."""
    return dict(await data.fetch("SELECT generation, count(*) FROM activity GROUP BY 1 ORDER BY 1"))


@pytest.mark.parametrize("projection", [each.name for each in PROJECTIONS])
async def test_each_projection_is_rebuilt_and_then_serves(duro: Duro, data: Pool, projection: str) -> None:
    outcome = await duro.json("consumers", "rebuild", projection, "--mode", "test", "--share", "100")
    assert (outcome["events"], outcome["dead"], outcome["resumed"]) == (EVENTS, 0, False)
    assert outcome["perSecond"] > 0
    assert await projections.generations(data, projection) == Generations(2, None)
    live = await duro.json("consumers", "rebuild", projection, "--mode", "live")
    assert live["events"] == 0


async def test_a_rebuild_shows_progress_and_rate(duro: Duro, data: Pool) -> None:
    outcome = await duro("consumers", "rebuild", "activity", "--mode", "test", "--share", "100")
    assert f"Rebuilding activity in test: {EVENTS:,} events, from the beginning" in outcome.stderr
    assert f"100%: {EVENTS:,} of {EVENTS:,} events, " in outcome.stderr
    assert "per second" in outcome.stderr
    assert f"{EVENTS:,} events applied" in outcome.stdout
    assert await lines(data) == {2: EVENTS}


async def test_a_rebuild_discarded_elsewhere_says_so(
    duro: Duro, data: Pool, tenant: UUID, superuser: asyncpg.Connection
) -> None:
    await record_many(data, tenant, 6_000)
    await sequence_all(data)
    process = duro.popen(
        "consumers", "rebuild", "activity", "--mode", "test", "--share", "20",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        await until(superuser, "SELECT EXISTS (SELECT FROM sandbox.activity WHERE generation = 2)")
        await projections.abandon_rebuild(data, "activity")
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("duro: The rebuild was discarded")
    assert "resumes there" not in err


async def test_discarding_a_rebuild_keeps_the_serving_generation(duro: Duro, data: Pool) -> None:
    await projections.begin_rebuild(data, "activity")
    given_up = await duro.json("consumers", "rebuild", "activity", "--mode", "test", "--give-up")
    assert given_up["gaveUp"]
    assert await projections.generations(data, "activity") == Generations(1, None)
    again = await duro("consumers", "rebuild", "activity", "--mode", "test", "--give-up")
    assert "no unfinished rebuild" in again.stdout
    assert await lines(data) == {1: EVENTS}


@pytest.mark.drill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_rebuild_resumes(
    duro: Duro, data: Pool, tenant: UUID, superuser: asyncpg.Connection, number: signal.Signals
) -> None:
    """At a share of 1 % it rests for seconds after its first batch of 1,000, with more than a few thousand left."""
    await record_many(data, tenant, 6_000)
    await sequence_all(data)
    process = duro.popen(
        "consumers", "rebuild", "activity", "--mode", "test", "--share", "1",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        await until(superuser, "SELECT EXISTS (SELECT FROM sandbox.activity WHERE generation = 2)")
        process.send_signal(number)
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "The same command resumes there" in err
    built = (await lines(data))[2]
    assert await projections.generations(data, "activity") == Generations(1, 2)
    outcome = await duro.json("consumers", "rebuild", "activity", "--mode", "test", "--share", "100")
    assert outcome["resumed"]
    assert outcome["events"] == await data.fetchval("SELECT count(*) FROM event_log") - built
    assert await lines(data) == {2: built + outcome["events"]}
