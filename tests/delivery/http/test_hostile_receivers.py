"""Slow, endless and broken receivers. Each costs at most one attempt timeout and bounded memory."""

import asyncio
import gzip
import tracemalloc
from functools import lru_cache

import pytest

from delivery.http.attempt_contract import Outcome
from tests.delivery.http.hostility import MINE, provoke, reset
from tests.delivery.http.raw_receiver import Behaviour, Peer, receiving, sending, to, until

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 1024 * 1024


def dripping(before: bytes, drops: bytes) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(before)
        while not peer.reader.at_eof():
            for drop in drops:
                await peer.answer(bytes([drop]))
                await asyncio.sleep(0.01)

    return behave


@pytest.mark.parametrize(
    ("before", "drops", "status"),
    [
        (b"", b"HTTP/1.1 200 " + b"O" * 100, None),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (HEAD, b"X: aaaaaaaaaa\r\n", 200),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"a", 200),
        (CHUNKED, b"1\r\na\r\n", 200),
        (CHUNKED + b"1;", b"extension", 200),
        (CHUNKED + b"0\r\n", b"X: a\r\n", 200),
    ],
    ids=["status-line", "interim", "headers", "body", "chunks", "chunk-extension", "trailers"],
)
async def test_a_slow_drip_does_not_extend_the_deadline(
    before: bytes, drops: bytes, status: int | None
) -> None:
    result = await provoke(dripping(before, drops), attempt_timeout=0.2)
    assert (result.status, result.timed_out) == (status, True)
    assert result.outcome is (Outcome.TIMEOUT if status is None else Outcome.OK)
    assert result.error == (None if status else "timed out waiting for the response headers")


class Flood:
    """Counts the bytes sent. Kernel buffers take a few MiB of them."""

    def __init__(self, before: bytes, piece: bytes) -> None:
        self.before, self.piece = before, piece
        self.written = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.answer(self.before)
        while True:
            await peer.answer(self.piece)
            self.written += len(self.piece)


@pytest.mark.parametrize(
    ("before", "piece", "outcomes"),
    [
        (b"", b"\r\n" * 1024, {Outcome.PROTOCOL}),
        (HEAD + b"X: ", b"a" * 4096, {Outcome.OK}),
        (HEAD, b"X-Header: value\r\n" * 64, {Outcome.OK}),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 64, {Outcome.PROTOCOL}),
        (b"", b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n" * 64, {Outcome.PROTOCOL}),
        (HEAD + b"Content-Length: 1073741824\r\n\r\n", b"z" * 65536, {Outcome.OK}),
        (HEAD + b"\r\n", b"z" * 65536, {Outcome.OK}),
        (CHUNKED, b"10000\r\n" + b"z" * 65536 + b"\r\n", {Outcome.OK}),
        (CHUNKED, b"1\r\nz\r\n" * 4096, {Outcome.OK}),
        (CHUNKED + b"1;", b"extension" * 4096, {Outcome.OK}),
        (CHUNKED + b"0\r\n", b"X-Trailer: value\r\n" * 64, {Outcome.OK}),
        (CHUNKED + b"0\r\nX: ", b"a" * 4096, {Outcome.OK}),
    ],
    ids=[
        "empty-lines",
        "one-header",
        "headers",
        "interim",
        "interim-with-headers",
        "1-gib",
        "body",
        "chunks",
        "tiny-chunks",
        "chunk-extension",
        "trailers",
        "one-trailer",
    ],
)
async def test_endless_responses_are_cut_off(before: bytes, piece: bytes, outcomes: set[Outcome]) -> None:
    flood = Flood(before, piece)
    tracemalloc.start()
    result = await provoke(flood, attempt_timeout=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.outcome in outcomes
    assert peak < 8 * MIB
    assert flood.written < 32 * MIB
    assert len(result.response_body) <= 4096


@lru_cache(1)
def gzip_bomb() -> bytes:
    return gzip.compress(bytes(50 * MIB))


async def test_a_gzip_bomb_is_not_decompressed() -> None:
    bomb = gzip_bomb()
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(head + bomb)

    tracemalloc.start()
    result = await provoke(behave)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result.outcome, result.response_body) == (Outcome.OK, bomb[:4096])
    assert peak < 4 * MIB


@pytest.mark.parametrize("body", [b"x" * 300 * 1024, b"x" * 16 * MIB], ids=["300-kib", "16-mib"])
async def test_a_receiver_that_never_reads_is_a_timeout(body: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await asyncio.Event().wait()

    result = await provoke(behave, body=body, attempt_timeout=0.3)
    assert (result.outcome, result.error) == (Outcome.TIMEOUT, "timed out waiting for the response headers")


async def test_an_early_response_counts_and_ends_the_connection() -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.hung_up()

    result = await provoke(behave, body=b"x" * 16 * MIB)
    assert (result.outcome, result.status) == (Outcome.HTTP_STATUS, 413)


async def reset_on_accept(peer: Peer) -> None:
    reset(peer)


async def reset_after_the_head(peer: Peer) -> None:
    await peer.reader.readuntil(b"\r\n\r\n")
    reset(peer)


async def reset_after_the_request(peer: Peer) -> None:
    await peer.request()
    reset(peer)


def resetting_after(raw: bytes) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(raw)
        await asyncio.sleep(0.05)  # until the sender has read it: RST discards unread bytes
        reset(peer)

    return behave


async def close_its_side_on_accept(peer: Peer) -> None:
    peer.writer.write_eof()
    await peer.hung_up()


async def close_its_side_after_the_request(peer: Peer) -> None:
    await peer.request()
    peer.writer.write_eof()
    await peer.hung_up()


@pytest.mark.parametrize(
    ("behave", "status"),
    [
        (reset_on_accept, None),
        (reset_after_the_head, None),
        (reset_after_the_request, None),
        (resetting_after(b"HTTP/1.1 2"), None),
        (resetting_after(HEAD + b"X: "), 200),
        (resetting_after(HEAD + b"Content-Length: 5\r\n\r\nab"), 200),
        (resetting_after(CHUNKED + b"5\r\nab"), 200),
        (close_its_side_on_accept, None),
        (close_its_side_after_the_request, None),
    ],
    ids=[
        "accept",
        "head",
        "request",
        "status-line",
        "headers",
        "body",
        "chunk",
        "half-closed",
        "half-closed-after-request",
    ],
)
async def test_a_closed_connection_gives_the_status_or_a_protocol_error(
    behave: Behaviour, status: int | None
) -> None:
    result = await provoke(behave)
    assert result.status == status
    assert result.outcome is (Outcome.PROTOCOL if status is None else Outcome.OK)


@pytest.mark.parametrize("by", ["reset", "close", "half-close"])
@pytest.mark.parametrize("when", ["idle", "asked"])
async def test_an_idle_connection_that_closes_fails_no_attempt(by: str, when: str) -> None:
    """Before the next request is sent, or while it is sent."""
    ended = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(MINE)
        if peer.number > 1:
            return
        if when == "asked":
            await peer.request()
        if by == "reset":
            reset(peer)
        elif by == "close":
            peer.writer.close()
        else:
            peer.writer.write_eof()
        ended.set()
        await peer.hung_up()

    async with receiving(behave) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        if when == "idle":
            await ended.wait()
        result = await sender.send(request)
    assert (result.outcome, result.response_body) == (Outcome.OK, b"mine")
    assert receiver.connections == 2


async def test_many_hostile_receivers_leak_nothing() -> None:
    """All kinds together, while a normal receiver continues to be served."""
    kinds = [
        dripping(HEAD, b"X: a\r\n"),
        Flood(HEAD, b"X: value\r\n" * 64),
        Flood(HEAD + b"\r\n", b"z" * 65536),
        reset_after_the_request,
        close_its_side_on_accept,
    ]

    async def behave(peer: Peer) -> None:
        await kinds[peer.number % len(kinds)](peer)

    async def mine(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(MINE)

    async with receiving(behave) as bad, receiving(mine) as good, sending(attempt_timeout=1.5) as sender:
        hostile = [
            asyncio.create_task(sender.send(to(f"http://127.0.0.1:{bad.port}/{n}"))) for n in range(25)
        ]
        honest = [await sender.send(to(f"http://127.0.0.1:{good.port}/")) for _ in range(20)]
        results = await asyncio.gather(*hostile)
        await until(lambda: sender.in_use == 0)
        await bad.all_closed()
        assert sender.idle == 1
    assert all((result.outcome, result.response_body) == (Outcome.OK, b"mine") for result in honest)
    assert good.connections == 1
    assert {result.outcome for result in results} <= {Outcome.OK, Outcome.PROTOCOL, Outcome.TIMEOUT}
