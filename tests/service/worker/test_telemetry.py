"""The numbers of a scrape are those of what happened."""

import asyncio
import socket
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from delivery.http.attempt_contract import Outcome
from schema.connections.database import Database
from schema.deliveries.deliveries import Verdict
from schema.modes import Mode
from service.settings import Settings
from service.worker.composition import Worker, worker
from service.worker.projection_consumers import CONSUMERS
from service.worker.telemetry.exposition import Telemetry
from tests.support.engine import add_endpoint, listen, running
from tests.support.events import record_many
from tests.support.servers.receiver import Answer, Receiver, receiving

LABELS = {
    "mode",
    "consumer",
    "outcome",
    "verdict",
    "stage",
    "le",
    "lane",
    "held",
    "state",
    "schema",
    "version",
    "part",
}
NOT_ZERO_AT_REST = {
    "duro_build_info",
    "duro_database_connections",
    "duro_database_connections_limit",
    "duro_database_facts_age_seconds",
    "duro_database_facts_read_seconds",
    "duro_database_up",
    "duro_partitions_ahead_months",
    "duro_in_flight_limit",
    "duro_worker_registered",
    "duro_workers",
}


class Scrape:
    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The one sample of that name with exactly these labels."""
        (value,) = [s.value for s in self.samples if s.name == f"duro_{name}" and s.labels == labels]
        return value

    def nonzero(self, name: str, **labels: str) -> dict[str, float]:
        """By the value of the one label that is not given."""
        found = [
            s
            for s in self.samples
            if s.name == f"duro_{name}" and labels.items() <= s.labels.items() and s.value
        ]
        return {next(iter(s.labels[k] for k in s.labels.keys() - labels)): s.value for s in found}


@pytest.fixture
async def whole(db_url: str, key: bytes) -> AsyncIterator[Worker]:
    """It allows four attempts at a time, each for 300 ms."""
    settings = Settings.read(
        {
            "DURO_EGRESS_ALLOW": "127.0.0.0/8",
            "DURO_MAX_IN_FLIGHT": "4",
            "DURO_ATTEMPT_TIMEOUT": "300ms",
            "DURO_RETRY_SCHEDULE": "1h",
        }
    )
    async with worker(settings, db_url, key) as whole:
        await whole.presence.register()
        yield whole


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def scrape(whole: Worker) -> Scrape:
    """The first one of its telemetry, so that the database's facts are fresh."""
    return Scrape((await Telemetry(whole).exposition()).decode())


async def test_an_idle_worker_counts_nothing_and_has_every_series(whole: Worker) -> None:
    at_rest = await scrape(whole)
    ours = [s for s in at_rest.samples if s.name.startswith("duro_")]
    others_transactions = {"duro_oldest_transaction_pid", "duro_oldest_transaction_seconds"}
    assert {s.name for s in ours if s.value} - others_transactions == NOT_ZERO_AT_REST
    assert {s.labels["outcome"] for s in ours if "outcome" in s.labels} == set(Outcome)
    assert {s.labels["verdict"] for s in ours if "verdict" in s.labels} == set(Verdict)
    assert at_rest("in_flight_limit", mode="test") == 4


async def test_no_label_can_grow(whole: Worker, database: Database, tenant: UUID) -> None:
    """Neither with merchants nor with time: the allow-list is the promise, and a tenant is nowhere in the text."""
    endpoint = await add_endpoint(database, tenant, "http://127.0.0.1:1/hook")
    await record_many(database.data(Mode.TEST), tenant, 3)
    before = await scrape(whole)
    await run_until_settled(whole, 3)
    after = await scrape(whole)
    assert {label for s in after.samples for label in s.labels} == LABELS
    assert {(s.name, *sorted(s.labels.items())) for s in after.samples} == {
        (s.name, *sorted(s.labels.items())) for s in before.samples
    }
    for name in (str(tenant), str(endpoint), "127.0.0.1", "duro worker"):
        assert name not in after.text
    assert len(after.samples) < 600
    assert all(family.documentation for family in after.families)


async def run_until_settled(whole: Worker, count: int) -> None:
    test = whole.modes[0]
    assert test.mode is Mode.TEST
    settled = listen(test.settler)
    async with running(test.settler, test.dispatcher, test.fanout, test.sequencer):
        await settled.count(count)


async def test_attempts_are_counted_by_outcome_and_verdict(
    whole: Worker, database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """One that answers, one that fails, one that hangs, one that refuses, one that the guard blocks."""
    held = asyncio.Event()
    answers = {"/ok": Answer(), "/fails": Answer(503), "/hangs": Answer(held_by=held)}
    receiver.answer = lambda request: answers[request.path]
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        refused = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for url in (*(receiver.url + path for path in answers), refused, "https://10.0.0.1/hook"):
        await add_endpoint(database, tenant, url)
    await record_many(database.data(Mode.TEST), tenant, 2)
    await run_until_settled(whole, 10)
    held.set()

    found = await scrape(whole)
    assert found.nonzero("attempts_total", mode="test") == {
        "ok": 2, "http_status": 2, "timeout": 2, "connect": 2, "blocked": 2,
    }  # fmt: skip
    assert found.nonzero("deliveries_settled_total", mode="test") == {"delivered": 2, "failed": 2, "retry": 6}
    assert found("attempt_seconds_count", mode="test", stage="total") == 10
    assert found("attempt_seconds_bucket", mode="test", stage="total", le="0.25") == 8, (
        "all but those that hang"
    )
    assert found("attempt_seconds_bucket", mode="test", stage="total", le="+Inf") == 10
    assert 0.6 <= found("attempt_seconds_sum", mode="test", stage="total") < 60
    assert found("attempt_seconds_count", mode="test", stage="first_byte") == 4, "of those that answered"
    assert found("attempt_seconds_count", mode="test", stage="tls") == 0
    for name in ("attempts_total", "deliveries_settled_total", "attempt_seconds_count"):
        assert found.nonzero(name, mode="live") == {}
    assert found("events_sequenced_total", mode="test") == 2
    assert found("settlements_fenced_off_total", mode="test") == 0


async def test_attempts_in_flight_are_counted_by_lane(
    whole: Worker, database: Database, tenant: UUID, receiver: Receiver
) -> None:
    test, held = whole.modes[0], asyncio.Event()
    settled = listen(test.settler)
    receiver.answer = lambda _request: Answer(held_by=held)
    await add_endpoint(database, tenant, receiver.url)
    await record_many(database.data(Mode.TEST), tenant, 6)
    async with running(test.settler, test.dispatcher, test.fanout, test.sequencer):
        await receiver.requests.count(4)
        under_way = await scrape(whole)
        assert under_way.nonzero("deliveries_in_flight", mode="test") == {"first": 4}
        assert under_way("results_unwritten", mode="test") == 0
        held.set()
        await settled.count(6)
        at_rest = await scrape(whole)
    assert at_rest.nonzero("deliveries_in_flight", mode="test") == {}
    assert at_rest("results_unwritten", mode="test") == 0


async def test_results_that_the_database_has_not_taken_hold_their_places(
    whole: Worker, database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """The settler does not run: as while the database is away."""
    test = whole.modes[0]
    await add_endpoint(database, tenant, receiver.url)
    await record_many(database.data(Mode.TEST), tenant, 3)
    arrived, put = asyncio.Event(), test.settler.put

    def counting_put(result: object) -> None:
        put(result)  # type: ignore[arg-type]  it goes through as it came
        if test.dispatcher.in_flight - sum(test.dispatcher.capacity.under_way.values()) == 3:
            arrived.set()

    test.settler.put = counting_put  # type: ignore[method-assign]  to hear of it
    async with running(test.dispatcher, test.fanout, test.sequencer):
        async with asyncio.timeout(15):
            await arrived.wait()
        assert (await scrape(whole))("results_unwritten", mode="test") == 3


async def test_take_overs_and_being_registered_are_told(
    whole: Worker, database: Database, tenant: UUID
) -> None:
    await add_endpoint(database, tenant, "http://127.0.0.1:1/hook")
    await record_many(database.data(Mode.TEST), tenant, 2)
    await whole.modes[0].sequencer.step()
    await whole.modes[0].fanout.step()
    await database.data(Mode.TEST).execute(
        "UPDATE webhook_deliveries SET lease = 1, leased_by = 77, leased_until = now() + interval '1 hour'"
    )
    await whole.presence._take_over([77])
    found = await scrape(whole)
    assert found("leases_taken_over_total") == 2
    assert (found("worker_registered"), found("workers")) == (1, 1)
    whole.presence.close()
    assert (await scrape(whole))("worker_registered") == 0


async def test_what_each_consumer_applied_and_dead_lettered_is_told(
    whole: Worker, database: Database, tenant: UUID
) -> None:
    await record_many(database.data(Mode.TEST), tenant, 3)
    await whole.modes[0].sequencer.step()
    for consumer in whole.modes[0].consumers.values():
        await consumer.step()
    found = await scrape(whole)
    for name in CONSUMERS:
        assert found("events_applied_total", mode="test", consumer=name) == 3
        assert found("events_applied_total", mode="live", consumer=name) == 0
        assert found("events_dead_lettered_total", mode="test", consumer=name) == 0
        assert found("consumer_lag_events", mode="test", consumer=name) == 0


async def test_a_sequenced_event_wakes_every_consumer(
    whole: Worker, database: Database, tenant: UUID
) -> None:
    parts = whole.modes[0]
    await record_many(database.data(Mode.TEST), tenant, 1)
    await parts.sequencer.step()
    for consumer in parts.consumers.values():
        assert await consumer.poll_timer.wait(found=True)


async def test_the_process_and_its_version_are_told(whole: Worker) -> None:
    found = await scrape(whole)
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= {
        s.name for s in found.samples
    }
    assert found.nonzero("build_info").keys()
    assert found("database_connections_limit", schema="core") == whole.database.core.get_max_size()
    assert found("database_connections", schema="core", state="in_use") == 0
    async with whole.database.core.acquire():
        assert (await scrape(whole))("database_connections", schema="core", state="in_use") == 1
