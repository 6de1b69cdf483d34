"""Malformed responses: each row of the table in delivery/http/response_status.py.

None of them is read as the next delivery's response.
"""

import asyncio
import socket

import pytest

from delivery.http.attempt_contract import AttemptResult, Outcome, SendLimits
from delivery.http.exchange import MAX_BEFORE_BODY
from delivery.http.response_status import MAX_INTERIM, arrived_status, classify
from tests.delivery.http.hostility import MINE, provoke, reset
from tests.delivery.http.raw_receiver import Behaviour, Peer, receiving, sending, to
from tests.delivery.http.test_sender_tls import serving, trusting

OK, STATUS, PROTOCOL = Outcome.OK, Outcome.HTTP_STATUS, Outcome.PROTOCOL
HEAD = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT = SendLimits().header_line

NO_STATUS = {
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "smtp": b"220 mail ESMTP\r\n",
    "html-alone": b"<html>hello</html>",
    "icy": b"ICY 200 OK\r\n" + EMPTY,
    "every-byte": bytes(range(256)),
    "tls-alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "http2-settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a-request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "status-99999": b"HTTP/1.1 99999 X\r\n" + EMPTY,
    "status-20": b"HTTP/1.1 20 X\r\n" + EMPTY,
    "status-minus": b"HTTP/1.1 -200 X\r\n" + EMPTY,
    "status-letters": b"HTTP/1.1 2xx X\r\n" + EMPTY,
    "two-spaces": b"HTTP/1.1  200 OK\r\n" + EMPTY,
    "version-2": b"HTTP/2 200 OK\r\n" + EMPTY,
    "version-9.9": b"HTTP/9.9 200 OK\r\n" + EMPTY,
    "version-long": b"HTTP/1.10 200 OK\r\n" + EMPTY,
    "lower-case": b"http/1.1 200 OK\r\n" + EMPTY,
    "leading-space": b" HTTP/1.1 200 OK\r\n" + EMPTY,
    "byte-order-mark": b"\xef\xbb\xbfHTTP/1.1 200 OK\r\n" + EMPTY,
    "lone-cr": b"HTTP/1.1 200 OK\rContent-Length: 0\r\r",
    "endless-reason": b"HTTP/1.1 200 " + b"a" * MAX_BEFORE_BODY,
    "interim-then-nonsense": b"HTTP/1.1 100 Continue\r\n\r\nnonsense",
    "nul-in-interim": b"HTTP/1.1 103 Hints\r\nX: a\0b\r\n\r\nHTTP/1.1 200 OK\r\n" + EMPTY,
}
UNEXPECTED = {
    "switching": (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 101),
    "switching-without-upgrade": (b"HTTP/1.1 101 Switching\r\n\r\n", 101),
    "switching-malformed": (b"HTTP/1.1 101 Switching\r\nno colon\r\n\r\n", 101),
    "status-zero": (b"HTTP/1.1 000 X\r\n" + EMPTY, 0),
    "status-99": (b"HTTP/1.1 099 X\r\n" + EMPTY, 99),
}

MALFORMED = {
    "nul-in-value": b"X: a\0b\r\n" + EMPTY,
    "nul-in-name": b"X\0Y: a\r\n" + EMPTY,
    "no-colon": b"nocolon\r\n" + EMPTY,
    "no-name": b": v\r\n" + EMPTY,
    "space-in-name": b"Set Cookie: v\r\n" + EMPTY,
    "space-before-colon": b"X : v\r\n" + EMPTY,
    "folded-header": b"X: a\r\n b\r\n" + EMPTY,
    "folded-first": b" X: a\r\n" + EMPTY,
    "lone-cr-in-header": b"X: a\rb\r\n" + EMPTY,
    "lengths-that-agree": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "lengths-that-differ": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length-list": b"Content-Length: 2, 2\r\n\r\nok",
    "length-negative": b"Content-Length: -1\r\n\r\nok",
    "length-plus": b"Content-Length: +2\r\n\r\nok",
    "length-hex": b"Content-Length: 0x2\r\n\r\nok",
    "length-overflow": b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "length-empty": b"Content-Length:\r\n\r\nok",
    "length-and-chunked": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked-and-length": b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "identity-and-length": b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    "chunk-negative": b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
    "chunk-letters": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    "chunk-without-size": b"Transfer-Encoding: chunked\r\n\r\n\r\nok\r\n0\r\n\r\n",
    "chunk-0x": b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
    "chunk-overflow": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "chunk-too-long": b"Transfer-Encoding: chunked\r\n\r\n2\r\nokX\r\n0\r\n\r\n",
    "header-without-end": b"X: " + b"a" * MAX_BEFORE_BODY,
    "control-character": b"X: a\x01b\r\n" + EMPTY,
    "headers-without-end": b"X: a\r\n" * (MAX_BEFORE_BODY // 6 + 1),
}
"""After a complete status line."""

NO_STATUS_LINE = {
    "nothing": b"",
    "version": b"HTTP/1.1 ",
    "half-a-status": b"HTTP/1.1 20",
    "status": b"HTTP/1.1 200",
    "half-a-reason": b"HTTP/1.1 200 O",
    "no-line-end": b"HTTP/1.1 200 OK\r",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half-a-hint": b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n",
}

BROKEN_OFF = {
    "status-line": HEAD,
    "no-reason": b"HTTP/1.1 200\r\n",
    "header": HEAD + b"Content-Le",
    "headers": HEAD + b"X: y\r\n",
    "behind-interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX",
    "behind-interim-headers": b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n",
    "body": HEAD + b"Content-Length: 10\r\n\r\nabc",
    "chunk": CHUNKED + b"5\r\nab",
    "chunk-size": CHUNKED + b"5",
    "chunk-end": CHUNKED + b"2\r\nok\r\n",
    "chunk-larger-than-memory": CHUNKED + b"ffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\nok",
    "length-huge": HEAD + b"Content-Length: 9223372036854775807\r\n\r\nok",
}

KEPT = {
    "no-reason": (b"HTTP/1.1 200\r\n" + EMPTY, OK),
    "status-999": (b"HTTP/1.1 999 X\r\n" + EMPTY, STATUS),
    "line-feeds-alone": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", OK),
    "leading-empty-lines": (b"\r\n\r\nHTTP/1.1 200 OK\r\n" + EMPTY, OK),
    "latin-1": (HEAD + b"X: caf\xe9\r\n" + EMPTY, OK),
    "header-of-9000": (HEAD + b"X: " + b"a" * 9000 + b"\r\n" + EMPTY, OK),
    "longest-header": (HEAD + b"X: " + b"a" * (LIMIT - 100) + b"\r\n" + EMPTY, OK),
    "101-headers": (HEAD + b"X: a\r\n" * 101 + EMPTY, OK),
    "1000-headers": (HEAD + b"X: a\r\n" * 1000 + EMPTY, OK),
    "long-reason": (b"HTTP/1.1 200 " + b"a" * 9000 + b"\r\n" + EMPTY, OK),
    "chunk-with-spaces": (CHUNKED + b"2  \r\nok\r\n0\r\n\r\n", OK),
    "chunk-extension": (CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n", OK),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\nRetry-After: 5\r\n\r\n", OK),
    "gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", OK),
    "identity-content": (HEAD + b"Content-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", OK),
    "gzip-in-chunks": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", OK),
    "interim-with-length": (b"HTTP/1.1 100 C\r\nContent-Length: 5\r\n\r\n" + HEAD + EMPTY, OK),
    "interim-retry-after": (b"HTTP/1.1 103 E\r\nRetry-After: 9\r\n\r\nHTTP/1.1 503 No\r\n" + EMPTY, STATUS),
    "offers-an-upgrade": (HEAD + b"Connection: Upgrade\r\nUpgrade: h2,h2c\r\n" + EMPTY, OK),
    "wants-an-upgrade": (b"HTTP/1.1 426 U\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + EMPTY, STATUS),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", OK),
    "not-modified": (b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", STATUS),
}

CLOSED = {
    "http-1.0": b"HTTP/1.0 200 OK\r\n" + EMPTY,
    "connection-close": HEAD + b"Connection: close\r\n" + EMPTY,
    "204-with-body": b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
    "204-with-chunks": b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "body-longer": HEAD + b"Content-Length: 1\r\n\r\nok",
    "garbage-behind": HEAD + EMPTY + b"garbage",
    "half-an-answer-behind": HEAD + EMPTY + b"HTTP/1.1 500",
    "an-answer-behind": HEAD + EMPTY + b"HTTP/1.1 500 Extra\r\n" + EMPTY,
}


def saying(raw: bytes, *, then_close: bool = False) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(raw)
        if then_close:
            peer.writer.close()
            await peer.writer.wait_closed()
        await peer.hung_up()

    return behave


def failing(raw: bytes) -> bytes:
    """The same response with status 500."""
    return raw.replace(b" 200", b" 500")


async def attempt_twice(raw: bytes) -> tuple[AttemptResult, int]:
    """The first attempt's result, and the number of connections for two attempts."""

    async def serve(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.answer(raw)
        while True:
            await peer.request()
            await peer.answer(MINE)

    async with receiving(serve) as receiver, sending(attempt_timeout=5) as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        first, second = await sender.send(request), await sender.send(request)
    assert (second.outcome, second.response_body) == (OK, b"mine")
    return first, receiver.connections


@pytest.mark.parametrize("raw", NO_STATUS.values(), ids=NO_STATUS)
async def test_bytes_without_a_status_line_are_a_protocol_error(raw: bytes) -> None:
    result = await provoke(saying(raw))
    assert (result.outcome, result.status) == (PROTOCOL, None)
    assert result.timings.total < 4000, "it had to wait for the deadline"
    assert result.error
    assert result.error.isprintable()
    assert len(result.error) < 200


@pytest.mark.parametrize(("raw", "status"), UNEXPECTED.values(), ids=UNEXPECTED)
async def test_an_unexpected_status_is_a_protocol_error_that_names_it(raw: bytes, status: int) -> None:
    result = await provoke(saying(raw))
    assert (result.outcome, result.status) == (PROTOCOL, status)
    assert result.error == f"unexpected status {status}"


@pytest.mark.parametrize("tail", MALFORMED.values(), ids=MALFORMED)
async def test_a_status_line_decides_whatever_follows_it(tail: bytes) -> None:
    result = await provoke(saying(HEAD + tail))
    assert (result.outcome, result.status, result.error) == (OK, 200, None)
    assert result.timings.total < 4000, "it had to wait for the deadline"
    result = await provoke(saying(failing(HEAD + tail)))
    assert (result.outcome, result.status, result.error) == (STATUS, 500, "HTTP status 500")


@pytest.mark.parametrize("raw", NO_STATUS_LINE.values(), ids=NO_STATUS_LINE)
async def test_a_response_cut_before_its_status_line_is_a_protocol_error(raw: bytes) -> None:
    result = await provoke(saying(raw, then_close=True))
    assert (result.outcome, result.status) == (PROTOCOL, None)


@pytest.mark.parametrize("raw", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_a_response_cut_after_its_status_line_has_its_status(raw: bytes) -> None:
    result = await provoke(saying(raw, then_close=True))
    assert (result.outcome, result.status, result.error) == (OK, 200, None)
    result = await provoke(saying(failing(raw), then_close=True))
    assert (result.outcome, result.status, result.error) == (STATUS, 500, "HTTP status 500")


async def stalled(responses: dict[str, bytes]) -> dict[str, tuple[Outcome, int | None, bool]]:
    """The results of receivers that send these bytes and then stall. They run together, for one deadline."""
    results = await asyncio.gather(*(provoke(saying(raw), attempt_timeout=1) for raw in responses.values()))
    return {
        name: (result.outcome, result.status, result.timed_out)
        for name, result in zip(responses, results, strict=True)
    }


async def test_a_response_that_stalls_before_its_status_line_times_out() -> None:
    assert await stalled(NO_STATUS_LINE) == dict.fromkeys(NO_STATUS_LINE, (Outcome.TIMEOUT, None, True))


async def test_a_response_that_stalls_after_its_status_line_has_its_status() -> None:
    assert await stalled(BROKEN_OFF) == dict.fromkeys(BROKEN_OFF, (OK, 200, True))


async def test_the_received_part_of_a_broken_body_is_kept() -> None:
    for raw in (BROKEN_OFF["body"], CHUNKED + b"3\r\nabc\r\nzz\r\n"):
        assert (await provoke(saying(raw, then_close=True))).response_body == b"abc"


async def test_a_reset_after_the_status_line_keeps_the_status() -> None:
    status_is_read = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(HEAD + b"Content-Length: 5\r\n\r\nab")
        await status_is_read.wait()
        reset(peer)

    asyncio.get_running_loop().call_later(0.05, status_is_read.set)  # RST discards unread bytes
    result = await provoke(behave)
    assert (result.outcome, result.status, result.response_body) == (OK, 200, b"ab")


async def test_a_missing_close_notify_after_the_status_line_keeps_the_status(
    authority: object,
) -> None:
    """The transport below TLS is cut; no alert is sent."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(HEAD + b"Content-Length: 5\r\n\r\nab")
        await asyncio.sleep(0.1)  # for it to be read
        fileno = peer.writer.get_extra_info("socket").fileno()
        with socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM) as beneath:
            beneath.shutdown(socket.SHUT_RDWR)

    result = await provoke(behave, tls=serving(authority, "127.0.0.1"), trust=trusting(authority))
    assert (result.outcome, result.status, result.response_body) == (OK, 200, b"ab")


@pytest.mark.parametrize(("raw", "outcome"), KEPT.values(), ids=KEPT)
async def test_responses_of_real_servers_keep_the_connection(raw: bytes, outcome: Outcome) -> None:
    result, connections = await attempt_twice(raw)
    assert (result.outcome, result.retry_after) == (outcome, None)
    assert connections == 1


@pytest.mark.parametrize("raw", CLOSED.values(), ids=CLOSED)
async def test_a_response_that_does_not_end_cleanly_closes_the_connection(raw: bytes) -> None:
    result, connections = await attempt_twice(raw)
    assert (result.outcome, result.error) == (OK, None)
    assert connections == 2


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, None)])
async def test_interim_responses_are_limited_to_the_exact_byte(more: int, status: int | None) -> None:
    """Each has 16 KiB, and `more` is in the last."""
    sizes = [16 * 1024] * (MAX_BEFORE_BODY // (16 * 1024))
    sizes[-1] += more
    flood = b"".join(
        b"HTTP/1.1 100 " + b"c" * (size - len(b"HTTP/1.1 100 \r\n\r\n")) + b"\r\n\r\n" for size in sizes
    )
    assert len(flood) == MAX_BEFORE_BODY + more
    assert (await after_interim(flood)).status == status


async def test_interim_responses_are_counted() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await after_interim(interim * MAX_INTERIM)).status == 200
    result = await after_interim(interim * (MAX_INTERIM + 1))
    assert (result.outcome, result.status) == (PROTOCOL, None)
    assert result.error == "invalid HTTP response: too many interim responses"


@pytest.mark.parametrize(("count", "status"), [(MAX_INTERIM, 503), (MAX_INTERIM + 1, None)])
def test_a_final_status_is_looked_for_behind_so_many(count: int, status: int | None) -> None:
    assert arrived_status(b"HTTP/1.1 100 C\r\n\r\n" * count + b"HTTP/1.1 503 No\r\n") == status


async def after_interim(flood: bytes) -> AttemptResult:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(flood)
        await asyncio.sleep(0.1)  # for it to be read before the response
        await peer.answer(HEAD + EMPTY)

    return await provoke(behave)


@pytest.mark.parametrize("status", [None, 0, 99, 100, 101, 199, 200, 299, 300, 999])
def test_only_2xx_is_success(status: int | None) -> None:
    outcome, error = classify(status)
    assert (outcome is OK) == (status in (200, 299))
    assert (error is None) == (outcome is OK)
    assert (outcome is PROTOCOL) == (status is None or status < 200)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_status_arrives_with_the_end_of_its_line(end: bytes) -> None:
    for line in (b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"\r\nHTTP/1.1 200 "):
        assert arrived_status(line) is None
        assert arrived_status(line + end) == 200
        assert arrived_status(line + end + b"garbage") == 200


def test_interim_responses_are_not_a_final_status() -> None:
    hint = b"HTTP/1.1 103 Hints\r\nLink: HTTP/1.1 200 OK\r\n"
    assert arrived_status(hint) is None
    assert arrived_status(hint + b"\r\n") is None
    assert arrived_status(hint + b"\r\nHTTP/1.1 404 No\r\n") == 404
    assert arrived_status(b"HTTP/1.1 100\n\nHTTP/1.1 101 S\r\n") == 101
