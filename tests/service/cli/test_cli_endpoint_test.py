"""`duro endpoint test`: a real delivery to a real receiver, and a sentence wherever it gets stuck."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from schema.connections.database import Database
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from service.cli.tenants.endpoint_sending import longer_than
from tests.service.cli.duro_command import Duro
from tests.service.cli.log_work import fan_out
from tests.support.engine import Engine, add_endpoint, engine, running
from tests.support.event_schemas import assert_conforms
from tests.support.events import sequence_all
from tests.support.servers.receiver import Answer, Receiver, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def endpoint(database: Database, tenant: UUID, receiver: Receiver) -> str:
    """One that asks for invoices alone."""
    added = await add_endpoint(database, tenant, f"{receiver.url}/hooks", event_types=["invoice_*"])
    return format_id(ENDPOINT, added)


@pytest.fixture
async def worker(database: Database) -> AsyncIterator[Engine]:
    async with (
        engine(database) as parts,
        running(parts.settler, parts.dispatcher, parts.fanout, parts.sequencer),
    ):
        yield parts


async def recorded(duro: Duro, ten: str) -> list[dict[str, Any]]:
    listed = await duro.json("event", "list", "--tenant", ten, "--mode", "test")
    return list(listed["items"])


async def test_a_test_event_reaches_its_endpoint_and_shows_the_response(
    duro: Duro, tenant: UUID, endpoint: str, receiver: Receiver, worker: Engine, database: Database
) -> None:
    await add_endpoint(database, tenant, f"{receiver.url}/other")
    receiver.answer = lambda _request: Answer(200, b"thanks \x1b[31m")
    outcome = await duro("endpoint", "test", endpoint)
    assert outcome.status == 0, outcome
    assert "thanks \\x1b[31m" in outcome.stdout
    [received] = receiver.requests
    assert received.path == "/hooks"
    body = orjson.loads(received.body)
    assert (body["type"], body["data"]["endpointId"]) == ("webhook_test", endpoint)

    again = await duro.json("endpoint", "test", endpoint)
    assert again["eventId"] == receiver.requests[-1].event_id
    assert again["delivery"]["status"] == "delivered"
    assert again["delivery"]["attempts"][0]["responseBody"] == "thanks \x1b[31m"


async def test_a_failed_test_event_shows_the_response_and_exits_1(
    duro: Duro, endpoint: str, receiver: Receiver, worker: Engine
) -> None:
    receiver.answer = lambda _request: Answer(500, b"no")
    outcome = await duro("endpoint", "test", endpoint)
    assert outcome.status == 1
    assert "http_status" in outcome.stdout
    assert "It will be retried." in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_a_test_event_without_a_worker_says_how_far_it_got(
    form: list[str], duro: Duro, ten: str, endpoint: str, database: Database
) -> None:
    asked = ("endpoint", "test", endpoint, "--timeout", "1s", *form)
    assert "start one with duro up" in (await duro(*asked)).stderr

    [event] = await recorded(duro, ten)
    await sequence_all(database.data(Mode.TEST))
    assert (await duro.json("event", "show", str(event["id"])))["position"] == 1


async def test_a_test_event_in_flight_says_how_long_it_may_take(
    duro: Duro, endpoint: str, receiver: Receiver, worker: Engine
) -> None:
    enough = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=enough)
    outcome = await duro("endpoint", "test", endpoint, "--timeout", "1s")
    assert receiver.requests
    enough.set()
    assert (
        "is in flight and has no answer yet: an attempt may take up to 15s (DURO_ATTEMPT_TIMEOUT)"
        in outcome.stderr
    )
    assert outcome.status == 1


@pytest.mark.parametrize(("attempt", "waits"), [(15, 30), (25, 30), (60, 65)])
def test_by_default_it_waits_longer_than_an_attempt_takes(attempt: int, waits: int) -> None:
    assert longer_than(timedelta(seconds=attempt)) == timedelta(seconds=waits)


async def test_no_wait_only_records_the_event(
    duro: Duro, ten: str, endpoint: str, database: Database
) -> None:
    outcome = await duro.json("endpoint", "test", endpoint, "--no-wait")
    assert [event["id"] for event in await recorded(duro, ten)] == [outcome["eventId"]]
    assert outcome["delivery"] is None
    await fan_out(database)


async def test_a_test_event_matches_the_catalog(duro: Duro, ten: str, endpoint: str) -> None:
    await duro.json("endpoint", "test", endpoint, "--no-wait")
    [event] = await recorded(duro, ten)
    assert_conforms(event["type"], event["data"])


@pytest.mark.parametrize(
    ("switch", "way_back"), [("disable", "duro endpoint enable"), ("pause", "duro endpoint resume")]
)
async def test_a_disabled_or_paused_endpoint_is_not_tested(
    switch: str, way_back: str, duro: Duro, ten: str, endpoint: str
) -> None:
    await duro.json("endpoint", switch, endpoint)
    before = await recorded(duro, ten)
    assert f"{way_back} {endpoint}" in (await duro("endpoint", "test", endpoint)).refusal
    assert await recorded(duro, ten) == before
