"""The demo's receiver, in its process over real HTTP, accepts only genuine webhooks."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import aiohttp
import pytest

from delivery.message.endpoint_secret import generate_secret
from delivery.message.signing import SigningKey, signed_headers
from service.demo.demo_processes import ReceiverProcess, receiver_process
from service.demo.demo_receiver import ReceiverScript
from service.demo.receipts import OK, REJECTED, Receipt, data_digest
from service.demo.receiver_faults import Fault, fault_for
from service.demo.webhook_verification import Expectation

PATIENCE_S = 20
PATH, OTHER_PATH = "/run/app", "/run/crm"
SECRET, OTHER_SECRET = generate_secret(), generate_secret()
DATA = {"invoiceId": "inv_1", "amount": 500000, "customerName": "Adébáyọ̀"}


def event_with(fault: Fault | None, path: str = PATH) -> str:
    """Returns an event id whose first attempt at `path` has this fault, and whose second succeeds."""
    ids = (f"evt_{n}" for n in range(100_000))
    return next(i for i in ids if fault_for(i, path, 1) is fault and fault_for(i, path, 2) is None)


def body_of(event_id: str) -> bytes:
    content = {
        "id": event_id,
        "type": "invoice_created",
        "createdAt": "2026-06-28T09:00:00.000Z",
        "data": DATA,
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def headers_for(event_id: str, body: bytes, secret: str = SECRET, *, age_s: int = 0) -> dict[str, str]:
    signed = signed_headers(
        [SigningKey.from_secret(secret)],
        event_id=event_id,
        event_type="invoice_created",
        timestamp=int(time.time()) - age_s,
        body=body,
        prefix="Duro",
    )
    return {"Content-Type": "application/json", **dict(signed)}


@dataclass
class Running:
    process: ReceiverProcess
    session: aiohttp.ClientSession
    receipts: "asyncio.Queue[Receipt]" = field(default_factory=asyncio.Queue)

    async def post(self, body: bytes, headers: Mapping[str, str], path: str = PATH) -> int:
        async with self.session.post(self.process.url + path, data=body, headers=headers) as response:
            return response.status

    async def receipt(self) -> Receipt:
        async with asyncio.timeout(PATIENCE_S):
            return await self.receipts.get()


@pytest.fixture
async def receiver() -> AsyncIterator[Running]:
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()
    async with receiver_process(receipts.put_nowait) as process, aiohttp.ClientSession() as session:
        expectations = {
            PATH: Expectation(SECRET, {}),
            OTHER_PATH: Expectation(OTHER_SECRET, {"X-Store": "bodija"}),
        }
        await process.process.write(ReceiverScript(0.3, expectations).line())
        running = Running(process, session, receipts)
        await until_it_knows_its_script(running)
        yield running


async def until_it_knows_its_script(running: Running) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await running.post(b"", {}) == 404:
            pass
    await running.receipt()


async def test_a_genuine_webhook_is_accepted_and_reported(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    before = time.monotonic()
    assert await receiver.post(body, headers_for(event_id, body)) == 200
    receipt = await receiver.receipt()
    assert before <= receipt.at <= time.monotonic()  # latencies need one clock for all processes
    assert (receipt.answer, receipt.reason, receipt.attempt) == (OK, "", 1)
    assert (receipt.event_id, receipt.event_type, receipt.path) == (event_id, "invoice_created", PATH)
    assert receipt.body_digest == sha256(body).hexdigest()
    assert receipt.data_digest == data_digest(DATA)


Tamper = Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]]


def drop(name: str) -> Tamper:
    return lambda headers, body: ({k: v for k, v in headers.items() if k != name}, body)


def put(name: str, value: str) -> Tamper:
    return lambda headers, body: ({**headers, name: value}, body)


def from_signature_by(secret: str, name: str) -> Tamper:
    return lambda headers, body: (
        {**headers, name: headers_for(headers["webhook-id"], body, secret)[name]},
        body,
    )


TAMPERED: Mapping[str, Tamper] = {
    "another amount": lambda headers, body: (headers, body.replace(b"500000", b"500001")),
    "one more byte": lambda headers, body: (headers, body + b" "),
    "one byte less": lambda headers, body: (headers, body[:-1]),
    "no body": lambda headers, _body: (headers, b""),
    "webhook-signature by another": from_signature_by(OTHER_SECRET, "webhook-signature"),
    "Duro-Signature by another": from_signature_by(OTHER_SECRET, "Duro-Signature"),
    "no webhook-signature": drop("webhook-signature"),
    "no Duro-Signature": drop("Duro-Signature"),
    "no timestamp": drop("webhook-timestamp"),
    "no event id": drop("Duro-Event-Id"),
    "another type": put("Duro-Event-Type", "subscription_created"),
    "another id": put("webhook-id", "evt_other"),
    "no number for a time": put("Duro-Signature", "t=now,v1=00"),
    "bytes that are no text": put("Duro-Signature", "t=1,v1=\udcff"),
    "half a signature": put("webhook-signature", "v1"),
    "another content type": put("Content-Type", "text/plain"),
}


async def test_a_tampered_webhook_is_refused_and_reported(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    for what, tamper in TAMPERED.items():
        headers, sent = tamper(headers_for(event_id, body), body)
        assert await receiver.post(sent, headers) == 401, what
        receipt = await receiver.receipt()
        assert (receipt.answer, bool(receipt.reason)) == (REJECTED, True), what


async def test_each_signature_is_checked_separately(receiver: Running) -> None:
    """The reason names the failed header, so neither check hides the other."""
    event_id = event_with(None)
    body = body_of(event_id)
    for name in ("webhook-signature", "Duro-Signature"):
        forged = headers_for(event_id, body) | {name: headers_for(event_id, body, OTHER_SECRET)[name]}
        await receiver.post(body, forged)
        assert (await receiver.receipt()).reason.startswith(name)


async def test_an_old_signature_is_refused(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    assert await receiver.post(body, headers_for(event_id, body, age_s=301)) == 401


OTHERWISE_FORMED = {
    "not compact": body_of("evt_1").replace(b'":', b'": ', 1),
    "another order": b'{"type":"invoice_created","id":"evt_1","createdAt":"","data":{}}',
    "a key less": b'{"id":"evt_1","type":"invoice_created","data":{}}',
    "an id that is no text": b'{"id":["evt_1"],"type":"","createdAt":"","data":{}}',
    "no object": b"[]",
    "no JSON": b"invoice",
    "no text": b"\xff",
}


async def test_a_signed_body_of_another_form_is_rejected(receiver: Running) -> None:
    for what, body in OTHERWISE_FORMED.items():
        assert await receiver.post(body, headers_for("evt_1", body)) == 401, what


async def test_custom_headers_must_arrive(receiver: Running) -> None:
    event_id = event_with(None, OTHER_PATH)
    body = body_of(event_id)
    headers = headers_for(event_id, body, OTHER_SECRET)
    assert await receiver.post(body, headers, OTHER_PATH) == 401
    assert "X-Store" in (await receiver.receipt()).reason
    assert await receiver.post(body, {**headers, "X-Store": "bodija"}, OTHER_PATH) == 200


async def test_a_fault_is_followed_by_success(receiver: Running) -> None:
    for fault, status in {Fault.SERVER_ERROR: 500, Fault.RATE_LIMITED: 429, Fault.SLOW: 503}.items():
        event_id = event_with(fault)
        body = body_of(event_id)
        assert await receiver.post(body, headers_for(event_id, body)) == status
        assert await receiver.post(body, headers_for(event_id, body)) == 200
        receipts = [await receiver.receipt(), await receiver.receipt()]
        assert [(r.answer, r.attempt) for r in receipts] == [(fault.value, 1), (OK, 2)]


async def test_a_fault_can_close_the_connection(receiver: Running) -> None:
    event_id = event_with(Fault.CLOSED)
    body = body_of(event_id)
    with pytest.raises(aiohttp.ClientConnectionError):
        await receiver.post(body, headers_for(event_id, body))
    assert (await receiver.receipt()).answer == Fault.CLOSED


async def test_an_unknown_path_gets_404_and_no_receipt(receiver: Running) -> None:
    assert await receiver.post(b"{}", {}, "/elsewhere") == 404
    await receiver.process.process.end()
    assert receiver.receipts.empty()


async def test_closing_its_input_ends_it_after_all_receipts(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    await receiver.post(body, headers_for(event_id, body))
    assert await receiver.process.process.end() == 0
    assert (await receiver.receipt()).event_id == event_id
    assert not receiver.process.process.log


def test_few_deliveries_fail_and_at_most_twice() -> None:
    ids = [f"evt_{n}" for n in range(4000)]
    first = [fault for i in ids if (fault := fault_for(i, PATH, 1))]
    assert set(first) == set(Fault)
    assert 0.05 < len(first) / len(ids) < 0.12
    assert any(fault_for(i, PATH, 2) for i in ids)
    assert not any(fault_for(i, PATH, 3) for i in ids)
