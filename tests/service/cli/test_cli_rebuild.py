"""`duro consumers rebuild`: told as it goes, killed it goes on, and what served serves until the end."""

import asyncio
import signal
import subprocess
from uuid import UUID

import asyncpg
import pytest

from consumers.consumer import Consumer
from consumers.projection_handlers import Serving
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
        consumer = Consumer(data, Serving(projection))
        while await consumer.step():
            pass
    return data


async def lines(data: Pool) -> dict[int, int]:
    """How many the feed has, by generation."""
    return dict(await data.fetch("SELECT generation, count(*) FROM activity GROUP BY 1 ORDER BY 1"))


@pytest.mark.parametrize("projection", [each.name for each in PROJECTIONS])
async def test_each_projection_is_built_anew_and_serves(duro: Duro, data: Pool, projection: str) -> None:
    told = await duro.json("consumers", "rebuild", projection, "--mode", "test", "--share", "100")
    assert (told["events"], told["dead"], told["resumed"]) == (EVENTS, 0, False)
    assert told["perSecond"] > 0
    assert await projections.generations(data, projection) == Generations(2, None)
    live = await duro.json("consumers", "rebuild", projection, "--mode", "live")
    assert live["events"] == 0


async def test_it_tells_how_far_it_is_and_how_fast(duro: Duro, data: Pool) -> None:
    outcome = await duro("consumers", "rebuild", "activity", "--mode", "test", "--share", "100")
    assert f"Rebuilding activity in test: {EVENTS:,} events, from the beginning" in outcome.stderr
    assert f"100%: {EVENTS:,} of {EVENTS:,} events, " in outcome.stderr
    assert "per second" in outcome.stderr
    assert f"{EVENTS:,} events applied" in outcome.stdout
    assert await lines(data) == {2: EVENTS}


async def test_one_that_is_given_up_elsewhere_says_so(
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


async def test_one_that_is_given_up_leaves_what_serves(duro: Duro, data: Pool) -> None:
    await projections.begin_rebuild(data, "activity")
    given_up = await duro.json("consumers", "rebuild", "activity", "--mode", "test", "--give-up")
    assert given_up["gaveUp"]
    assert await projections.generations(data, "activity") == Generations(1, None)
    again = await duro("consumers", "rebuild", "activity", "--mode", "test", "--give-up")
    assert "no unfinished rebuild" in again.stdout
    assert await lines(data) == {1: EVENTS}


@pytest.mark.drill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_ended_in_the_middle_it_goes_on_where_it_was(
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
    told = await duro.json("consumers", "rebuild", "activity", "--mode", "test", "--share", "100")
    assert told["resumed"]
    assert told["events"] == await data.fetchval("SELECT count(*) FROM event_log") - built
    assert await lines(data) == {2: built + told["events"]}
