"""Receivers whose TLS stalls, is invalid or stops midway."""

import asyncio
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from delivery.http import tls_watch
from delivery.http.attempt_contract import Outcome
from delivery.http.exchange import Stage
from tests.delivery.http.hostility import provoke, reset
from tests.delivery.http.raw_receiver import (
    OK,
    Behaviour,
    Peer,
    always_ok,
    exchanges,
    receiving,
    sending,
    to,
    until,
)
from tests.delivery.http.test_sender_tls import serving, trusting
from tests.delivery.http.tickets import handshake

HELLO_CUT_SHORT = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + b"\x11" * 20
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


def after_hello(raw: bytes, *, then_close: bool = False) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.answer(raw)
        if not then_close:
            await peer.hung_up()

    return behave


async def reset_on_hello(peer: Peer) -> None:
    await peer.reader.read(1)
    reset(peer)


@pytest.mark.parametrize(
    "behave",
    [
        after_hello(b"\x00" * 200),
        after_hello(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        after_hello(ALERT),
        after_hello(HELLO_CUT_SHORT, then_close=True),
        after_hello(b"", then_close=True),
        reset_on_hello,
    ],
    ids=["zeros", "plain-http", "alert", "half-a-hello", "close", "reset"],
)
async def test_a_handshake_that_fails_is_a_tls_error(authority: trustme.CA, behave: Behaviour) -> None:
    async with receiving(behave) as receiver, sending(tls=trusting(authority), attempt_timeout=5) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
        await until(lambda: sender.in_use == 0)
        await receiver.all_closed()
        assert sender.idle == 0
    assert (result.outcome, result.status) == (Outcome.TLS, None)
    assert result.timings.total < 4000


async def test_an_endless_handshake_is_ended(authority: trustme.CA) -> None:
    """HelloRequests, which every TLS client ignores, without end."""

    async def flood(peer: Peer) -> None:
        await peer.flood(b"\x16\x03\x03\x40\x00" + b"\0" * 16384)

    async with receiving(flood) as receiver, sending(tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
        assert sender.in_use + sender.idle == 0
    assert (result.outcome, result.error) == (Outcome.TLS, "the TLS handshake did not finish")
    assert result.timings.total < 5000


@pytest.mark.parametrize("answered", [False, True], ids=["in-flight", "idle"])
async def test_endless_session_tickets_are_ended(
    authority: trustme.CA, tmp_path: Path, answered: bool
) -> None:
    """The protocol does not see them, so an idle connection that receives them looks quiet."""

    async def flood(peer: Peer) -> None:
        records = await handshake(peer, serving(authority, "127.0.0.1"), tmp_path / str(peer.number))
        if answered:
            await peer.answer(records.data(OK))
        while True:
            await peer.answer(records.tickets())

    async with receiving(flood) as receiver, sending(tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
        await until(lambda: sender.in_use + sender.idle == 0)
    if answered:
        assert result.outcome is Outcome.OK
    else:
        assert (result.outcome, result.error) == (
            Outcome.PROTOCOL,
            "too many TLS messages on the connection",
        )
    assert result.timings.total < 5000


async def test_many_large_responses_are_not_a_tls_flood(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_watch, "CHECK_SECONDS", 0.005)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60000

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            for begin in range(0, len(answer), 100):
                peer.writer.write(answer[begin : begin + 100])
            await peer.writer.drain()

    async with (
        receiving(behave, tls=serving(authority, "127.0.0.1")) as receiver,
        sending(tls=trusting(authority)) as sender,
    ):
        for _ in range(30):
            result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
            assert result.outcome is Outcome.OK
    assert receiver.connections == 1


async def test_a_connection_with_an_unsent_request_is_not_reused(authority: trustme.CA) -> None:
    """The receiver responds before it reads: the unsent rest would precede the next request."""

    async def answer_unread(peer: Peer) -> None:
        if peer.number > 1:
            await always_ok(peer)
        peer.writer.transport.pause_reading()
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await until(lambda: any(exchange.stage is Stage.HEADERS for exchange in exchanges(sender)))
        await peer.answer()
        await finished.wait()

    finished = asyncio.Event()
    async with (
        receiving(answer_unread, tls=serving(authority, "127.0.0.1")) as receiver,
        sending(tls=trusting(authority), attempt_timeout=5) as sender,
    ):
        url = f"https://127.0.0.1:{receiver.port}/"
        first = await sender.send(to(url, body=b"x" * 300_000))
        second = await sender.send(to(url))
        finished.set()
    assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.OK)
    assert receiver.connections == 2


@pytest.mark.parametrize("raw", [b"", HELLO_CUT_SHORT], ids=["nothing", "half-a-hello"])
async def test_a_handshake_that_stalls_is_a_timeout(authority: trustme.CA, raw: bytes) -> None:
    async with (
        receiving(after_hello(raw)) as receiver,
        sending(tls=trusting(authority), attempt_timeout=0.25) as sender,
    ):
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
        assert sender.in_use + sender.idle == 0
    assert (result.outcome, result.error) == (Outcome.TIMEOUT, "timed out waiting for the TLS handshake")


async def test_an_expired_certificate_is_not_accepted(authority: trustme.CA) -> None:
    context = serving(authority, "127.0.0.1")
    expired = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    expired.configure_cert(context)
    async with receiving(tls=context) as receiver, sending(tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert result.outcome is Outcome.TLS
    assert "expired" in (result.error or "")
    assert receiver.requests == []


def garbling(raw: bytes) -> Behaviour:
    """Begins a response in TLS, then writes to the socket below."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await asyncio.sleep(
            0.1
        )  # for it to be read first: asyncio drops what it decrypted just before an error
        os.write(peer.writer.get_extra_info("socket").fileno(), raw)
        await peer.hung_up()

    return behave


@pytest.mark.parametrize("raw", [b"\0" * 100, ALERT, b"\x17\x03\x03\x00\x20" + b"\1" * 32])
async def test_garbage_below_tls_ends_the_attempt(authority: trustme.CA, raw: bytes) -> None:
    result = await provoke(
        garbling(raw),
        tls=serving(authority, "127.0.0.1"),
        trust=trusting(authority),
    )
    assert (result.outcome, result.status, result.response_body) == (Outcome.OK, 200, b"abc")
