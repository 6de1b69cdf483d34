"""The numbers of a scrape are those of what happened."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schema.database import Database
from schema.modes import Mode
from schema.partitions import ensure_partitions
from service.runtime import Worker, worker
from service.settings import Settings
from service.telemetry import exposition
from tests.support.engine import add_endpoint, listen, running
from tests.support.events import record_many
from tests.support.receiver import Answer, receiving

Numbers = dict[tuple[str, str | None], float]


@pytest.fixture
async def whole(db_url: str, key: bytes) -> AsyncIterator[Worker]:
    settings = Settings.read({"DURO_EGRESS_ALLOW": "127.0.0.0/8", "DURO_MAX_IN_FLIGHT": "4"})
    async with worker(settings, db_url, key) as whole:
        await whole.presence.register()
        yield whole


async def scrape(whole: Worker) -> Numbers:
    families = text_string_to_metric_families((await exposition(whole)).decode())
    return {
        (sample.name, sample.labels.get("mode")): sample.value
        for family in families
        for sample in family.samples
    }


async def test_an_idle_worker_counts_nothing(whole: Worker) -> None:
    numbers = await scrape(whole)
    ahead = {key for key in numbers if key[0] == "duro_partitions_ahead_months"}
    assert {value for key, value in numbers.items() if key not in ahead} == {0}
    assert {mode for _, mode in numbers} == {"test", "live", None}


async def test_what_was_done_is_counted_in_its_mode(whole: Worker, database: Database, tenant: UUID) -> None:
    test = whole.modes[0]
    assert test.mode is Mode.TEST
    settled = listen(test.settler)
    held = asyncio.Event()
    async with receiving() as receiver:
        receiver.answer = lambda _request: Answer(held_by=held)
        await add_endpoint(database, tenant, receiver.url)
        await record_many(database.data(Mode.TEST), tenant, 6)
        async with running(test.settler, test.dispatcher, test.fanout, test.sequencer):
            await receiver.requests.count(4)
            assert (await scrape(whole))["duro_deliveries_in_flight", "test"] == 4
            held.set()
            await settled.count(6)
            numbers = await scrape(whole)
    for name in ("duro_events_sequenced", "duro_events_fanned_out", "duro_deliveries_settled"):
        assert numbers[f"{name}_total", "test"] == 6
        assert numbers[f"{name}_total", "live"] == 0
    assert numbers["duro_deliveries_in_flight", "test"] == 0
    assert numbers["duro_settlements_fenced_off_total", "test"] == 0


async def test_a_consumer_that_lags_is_seen_in_events_and_in_seconds(
    whole: Worker, database: Database, tenant: UUID
) -> None:
    await record_many(database.data(Mode.LIVE), tenant, 3)
    await whole.modes[1].sequencer.step()
    numbers = await scrape(whole)
    assert numbers["duro_consumer_lag_events", "live"] == 3
    assert 0 < numbers["duro_consumer_lag_seconds", "live"] < 60
    assert numbers["duro_consumer_lag_events", "test"] == 0


async def test_the_lead_of_partitions_is_the_database_s(whole: Worker, database: Database) -> None:
    """The test database begins with one month ahead; a year is what housekeeping keeps."""
    assert (await scrape(whole))["duro_partitions_ahead_months", "test"] == 1
    await ensure_partitions(database.data(Mode.TEST))
    assert (await scrape(whole))["duro_partitions_ahead_months", "test"] == 12
