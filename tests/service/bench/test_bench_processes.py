"""The benchmark's receiver, clients and producers count correctly."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from schema.connections.database import Database
from schema.ids import EVENT, format_id
from schema.modes import Mode
from schema.secret_box import derive_role_password
from service.bench.bench_setup import ReceiverProcess, receiver_process
from service.bench.load.bare_loop_client import COROUTINES
from service.bench.load.bench_receiver import ANSWER, HOST
from service.bench.load.bytes_client import CONNECTIONS
from service.bench.load.payload import LARGE, SMALL, data_for, webhook
from service.bench.processes.bench_process import process
from service.bench.processes.certificate import Certificate, make_certificate

PATIENCE_S = 20


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
async def receiver(certificate: Certificate) -> AsyncIterator[ReceiverProcess]:
    async with receiver_process(certificate) as started:
        yield started


def request(path: str, body: bytes, event_id: str = "evt_1") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nwebhook-id: {event_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_webhook_has_the_requested_size(size: int) -> None:
    body, headers = webhook(size)
    assert len(body) == size
    assert len(headers["Duro-Signature"].partition(",v1=")[2]) == 64


async def test_the_receiver_counts_requests_split_anywhere(receiver: ReceiverProcess) -> None:
    await receiver.reset(track=True)
    bodies = [b"", b"abc", b"x" * 100_000]
    whole = b"".join(request("/1", body, f"evt_{number}") for number, body in enumerate(bodies))
    reader, writer = await asyncio.open_connection(HOST, receiver.plain)
    for start, end in ((0, 1), (1, 40), (40, 90), (90, 700), (700, len(whole))):
        writer.write(whole[start:end])
        await writer.drain()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readexactly(3 * len(ANSWER)) == 3 * ANSWER
    report = await receiver.report()
    assert (report.count, report.bad, report.body_bytes) == (3, 0, 100_003)
    assert report.wire_bytes == len(whole)
    arrived = await receiver.first_bytes()
    assert list(arrived) == ["evt_0", "evt_1", "evt_2"]
    assert sorted(arrived.values()) == list(arrived.values())
    writer.close()


async def test_a_late_answer_is_not_taken_for_the_next(
    receiver: ReceiverProcess,
) -> None:
    given_up = asyncio.create_task(receiver.report())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    await receiver.reset(track=True)
    assert await receiver.first_bytes() == {}
    assert (await receiver.report()).count == 0


async def test_hanging_requests_are_counted_apart_and_never_answered(receiver: ReceiverProcess) -> None:
    await receiver.reset()
    reader, writer = await asyncio.open_connection(HOST, receiver.plain)
    writer.write(request("/hang/1", b"abc"))
    await writer.drain()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    report = await receiver.report()
    assert (report.count, report.hung) == (0, 1)
    writer.close()


async def test_a_client_that_trusts_the_certificate_can_use_tls(
    receiver: ReceiverProcess, certificate: Certificate
) -> None:
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    reader, writer = await asyncio.open_connection(HOST, receiver.tls, ssl=context)
    writer.write(request("/1", b"abc"))
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readexactly(len(ANSWER)) == ANSWER
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("tls", [False, True])
async def test_the_bare_loop_reports_its_exact_request_count(
    receiver: ReceiverProcess, certificate: Certificate, *, tls: bool
) -> None:
    await receiver.reset()
    async with process("bare loop", ("-m", "service.bench.load.bare_loop_client"), certificate.trust) as loop:
        question = {
            "url": receiver.url(tls=tls),
            "body_bytes": SMALL,
            "count": 3 * COROUTINES,
            "paths": 5,
            "within_s": PATIENCE_S,
        }
        answer = await loop.ask(question)
    report = await receiver.report()
    assert answer["count"] == report.count == 3 * COROUTINES
    assert (answer["failed"], report.bad, report.body_bytes) == (0, 0, report.count * SMALL)


async def test_the_bytes_client_counts_responses(receiver: ReceiverProcess) -> None:
    await receiver.reset()
    async with process("bytes client", ("-m", "service.bench.load.bytes_client")) as client:
        answer = await client.ask({"port": receiver.plain, "body_bytes": SMALL, "seconds": 0.2})
    report = await receiver.report()
    assert answer["count"] == report.count >= CONNECTIONS
    assert report.connections == CONNECTIONS


@pytest.mark.parametrize("rate", [None, 100.0])
async def test_producers_report_the_events_they_committed(
    database: Database, key: bytes, tenant: UUID, rate: float | None
) -> None:
    """Each id is a committed event. Its timestamps are in order."""
    async with process("writers", ("-m", "service.bench.load.bench_producers")) as writers:
        question = {
            "url": database.url,
            "user": Mode.LIVE.role,
            "password": derive_role_password(key, Mode.LIVE.role),
            "schema": Mode.LIVE.schema,
            "tenants": [str(tenant)],
            "data": data_for(SMALL),
            "rate": rate,
            "seconds": 0.3,
        }
        written = await writers.ask(question)
    rows = await database.data(Mode.LIVE).fetch("SELECT id FROM events")
    assert {format_id(EVENT, row["id"]) for row in rows} == set(written["ids"])
    assert written["committed"] == len(rows) > 0
    assert rate is None or len(rows) == 30
    stamps = zip(written["began_ns"], written["before_ns"], written["after_ns"], strict=True)
    assert all(began < before < after for began, before, after in stamps)
