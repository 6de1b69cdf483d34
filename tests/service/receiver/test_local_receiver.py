"""The receiver behind `duro listen`."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO

import pytest
from aiohttp import ClientSession

from delivery.message.endpoint_secret import generate_secret
from delivery.message.signing import signed_headers, signing_keys
from service.receiver.local_receiver import MOST_BYTES, AttemptCounts, Behaviour, Received, Receiver

SECRET = generate_secret()
BODY = b'{"id":"evt_1","type":"invoice_created","createdAt":"2026-06-28T09:00:00.000Z","data":{}}'


@dataclass
class Local:
    url: str
    client: ClientSession
    received: list[Received] = field(default_factory=list)

    async def post(
        self, body: bytes = BODY, *, secret: str = SECRET, event: str = "evt_1", leave_out: str = ""
    ) -> tuple[int, str]:
        headers = signed_headers(
            signing_keys([secret]),
            event_id=event,
            event_type="invoice_created",
            timestamp=int(time.time()),
            body=BODY,
        )
        sent = {name: value for name, value in headers if name != leave_out}
        async with self.client.post(self.url, data=BytesIO(body), headers=sent) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def listening(secrets: Sequence[str] = (SECRET,), **behaviour: object) -> AsyncIterator[Local]:
    received: list[Received] = []
    receiver = Receiver(secrets, "Duro", Behaviour(**behaviour), received.append, time.time)  # type: ignore[arg-type]
    url = await receiver.listen(0)
    async with ClientSession() as client:
        yield Local(url, client, received)
    await receiver.close()


async def test_a_genuine_webhook_is_accepted() -> None:
    async with listening() as local:
        assert (await local.post())[0] == 200
    [received] = local.received
    assert received.check is not None
    assert received.check.valid
    assert (received.id, received.type, received.body) == ("evt_1", "invoice_created", BODY)


@pytest.mark.parametrize("leave_out", ["Duro-Signature", "webhook-signature", "webhook-id"])
async def test_both_signatures_are_required(leave_out: str) -> None:
    async with listening() as local:
        assert (await local.post(leave_out=leave_out))[0] == 400


async def test_an_invalid_webhook_is_rejected_and_not_forwarded() -> None:
    async with listening() as inner, listening(forward_to=inner.url) as local:
        assert (await local.post(BODY + b" "))[0] == 400
        assert (await local.post(secret=generate_secret()))[0] == 400
    assert inner.received == []
    assert [received.note for received in local.received] == ["rejected", "rejected"]


async def test_forwarding_keeps_the_request_and_returns_the_response() -> None:
    """The inner receiver verifies the signatures, so every signed byte is unchanged."""
    async with listening(fail_first=1) as inner, listening(forward_to=inner.url) as local:
        assert await local.post() == (503, "failing on request\n")
        assert (await local.post())[0] == 200
    assert [received.check is not None and received.check.valid for received in inner.received] == [
        True,
        True,
    ]


async def test_an_unreachable_forward_gives_502() -> None:
    async with listening(forward_to="http://127.0.0.1:1/") as local:
        assert (await local.post())[0] == 502
    assert str(local.received[0].note).startswith("not forwarded")


async def test_without_a_secret_nothing_is_checked() -> None:
    async with listening(secrets=()) as local:
        assert (await local.post(b"anything"))[0] == 200
    assert local.received[0].check is None


async def test_fail_first_counts_each_event_separately() -> None:
    async with listening(fail_first=2, status=204) as local:
        statuses = [(await local.post(event=event))[0] for event in ("a", "a", "b", "a", "b", "b")]
    assert statuses == [503, 503, 503, 204, 503, 204]


async def test_a_body_over_the_limit_gives_413() -> None:
    async with listening() as local:
        assert (await local.post(b"x" * (MOST_BYTES + 1)))[0] == 413
    assert local.received == []


def test_the_count_of_attempts_is_bounded() -> None:
    counts = AttemptCounts(2)
    assert [counts.count(event) for event in ("a", "b", "a", "c", "b", "a")] == [1, 1, 2, 1, 1, 1]
