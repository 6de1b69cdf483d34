"""The demo's receiver, as the process it is, over real HTTP: it takes what is genuine and nothing else."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import aiohttp
import pytest

from delivery.endpoint_secret import generate_secret
from delivery.signing import SigningKey, signed_headers
from service.demo.faults import Fault, fault_for
from service.demo.processes import ReceiverProcess, receiver_process
from service.demo.receipts import OK, REFUSED, Receipt, data_digest
from service.demo.receiver import Script
from service.demo.verification import Expectation

PATIENCE_S = 20
PATH, OTHER_PATH = "/run/app", "/run/crm"
SECRET, OTHER_SECRET = generate_secret(), generate_secret()
DATA = {"invoiceId": "inv_1", "amount": 500000, "customerName": "Adébáyọ̀"}


def event_with(fault: Fault | None, path: str = PATH) -> str:
    """An event id whose first attempt at `path` goes so, and whose second goes well."""
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
            OTHER_PATH: Expectation(OTHER_SECRET, {"X-Shop": "bodija"}),
        }
        await process.process.write(Script(0.3, expectations).line())
        running = Running(process, session, receipts)
        await until_it_knows_its_script(running)
        yield running


async def until_it_knows_its_script(running: Running) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await running.post(b"", {}) == 404:
            pass
    await running.receipt()


async def test_a_genuine_webhook_is_taken_and_reported(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    before = time.monotonic()
    assert await receiver.post(body, headers_for(event_id, body)) == 200
    receipt = await receiver.receipt()
    assert before <= receipt.at <= time.monotonic()  # one clock for all processes: latencies rest on it
    assert (receipt.answer, receipt.why, receipt.attempt) == (OK, "", 1)
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
        assert (receipt.answer, bool(receipt.why)) == (REFUSED, True), what


async def test_each_signature_is_checked_on_its_own(receiver: Running) -> None:
    """The report names the one that failed, so neither check hides behind the other."""
    event_id = event_with(None)
    body = body_of(event_id)
    for name in ("webhook-signature", "Duro-Signature"):
        forged = headers_for(event_id, body) | {name: headers_for(event_id, body, OTHER_SECRET)[name]}
        await receiver.post(body, forged)
        assert (await receiver.receipt()).why.startswith(name)


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


async def test_a_well_signed_body_of_another_form_is_refused(receiver: Running) -> None:
    for what, body in OTHERWISE_FORMED.items():
        assert await receiver.post(body, headers_for("evt_1", body)) == 401, what


async def test_custom_headers_must_arrive(receiver: Running) -> None:
    event_id = event_with(None, OTHER_PATH)
    body = body_of(event_id)
    headers = headers_for(event_id, body, OTHER_SECRET)
    assert await receiver.post(body, headers, OTHER_PATH) == 401
    assert "X-Shop" in (await receiver.receipt()).why
    assert await receiver.post(body, {**headers, "X-Shop": "bodija"}, OTHER_PATH) == 200


async def test_a_fault_is_shown_first_and_success_then(receiver: Running) -> None:
    for fault, status in {Fault.SERVER_ERROR: 500, Fault.RATE_LIMITED: 429, Fault.SLOW: 503}.items():
        event_id = event_with(fault)
        body = body_of(event_id)
        assert await receiver.post(body, headers_for(event_id, body)) == status
        assert await receiver.post(body, headers_for(event_id, body)) == 200
        receipts = [await receiver.receipt(), await receiver.receipt()]
        assert [(r.answer, r.attempt) for r in receipts] == [(fault.value, 1), (OK, 2)]


async def test_it_can_hang_up(receiver: Running) -> None:
    event_id = event_with(Fault.CLOSED)
    body = body_of(event_id)
    with pytest.raises(aiohttp.ClientConnectionError):
        await receiver.post(body, headers_for(event_id, body))
    assert (await receiver.receipt()).answer == Fault.CLOSED


async def test_what_is_nobodys_endpoint_is_not_found_and_not_counted(receiver: Running) -> None:
    assert await receiver.post(b"{}", {}, "/elsewhere") == 404
    await receiver.process.process.end()
    assert receiver.receipts.empty()


async def test_it_ends_with_its_input_having_reported_everything(receiver: Running) -> None:
    event_id = event_with(None)
    body = body_of(event_id)
    await receiver.post(body, headers_for(event_id, body))
    assert await receiver.process.process.end() == 0
    assert (await receiver.receipt()).event_id == event_id
    assert not receiver.process.process.log


def test_trouble_is_for_a_fair_share_and_over_after_two_attempts() -> None:
    ids = [f"evt_{n}" for n in range(4000)]
    first = [fault for i in ids if (fault := fault_for(i, PATH, 1))]
    assert set(first) == set(Fault)
    assert 0.05 < len(first) / len(ids) < 0.12
    assert any(fault_for(i, PATH, 2) for i in ids)
    assert not any(fault_for(i, PATH, 3) for i in ids)
