"""Answers that are not quite HTTP, or not at all. None of them is taken for the next delivery's answer."""

import pytest

from delivery.sending import Outcome
from tests.delivery.wire.hostility import provoke
from tests.delivery.wire.receiver import Peer

OK, STATUS, PROTOCOL = Outcome.OK, Outcome.HTTP_STATUS, Outcome.PROTOCOL
HEAD = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

NOT_HTTP = {
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "smtp": b"220 mail ESMTP\r\n",
    "html-alone": b"<html>hello</html>",
    "every-byte": bytes(range(256)),
    "tls-alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "http2-settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a-request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "status-99999": b"HTTP/1.1 99999 X\r\n" + EMPTY,
    "status-20": b"HTTP/1.1 20 X\r\n" + EMPTY,
    "status-minus": b"HTTP/1.1 -200 X\r\n" + EMPTY,
    "status-letters": b"HTTP/1.1 2xx X\r\n" + EMPTY,
    "status-zero": b"HTTP/1.1 000 X\r\n" + EMPTY,
    "status-99": b"HTTP/1.1 099 X\r\n" + EMPTY,
    "version-9.9": b"HTTP/9.9 200 OK\r\n" + EMPTY,
    "version-long": b"HTTP/1.10 200 OK\r\n" + EMPTY,
    "leading-space": b" HTTP/1.1 200 OK\r\n" + EMPTY,
    "lone-cr": b"HTTP/1.1 200 OK\rContent-Length: 0\r\r",
    "nul-in-value": HEAD + b"X: a\0b\r\n" + EMPTY,
    "nul-in-name": HEAD + b"X\0Y: a\r\n" + EMPTY,
    "no-colon": HEAD + b"nocolon\r\n" + EMPTY,
    "no-name": HEAD + b": v\r\n" + EMPTY,
    "space-before-colon": HEAD + b"X : v\r\n" + EMPTY,
    "lengths-that-differ": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length-list": HEAD + b"Content-Length: 2, 2\r\n\r\nok",
    "length-negative": HEAD + b"Content-Length: -1\r\n\r\nok",
    "length-plus": HEAD + b"Content-Length: +2\r\n\r\nok",
    "length-hex": HEAD + b"Content-Length: 0x2\r\n\r\nok",
    "length-overflow": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "length-empty": HEAD + b"Content-Length:\r\n\r\nok",
    "length-and-chunked": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked-and-length": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunk-negative": CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
    "chunk-letters": CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",
    "chunk-without-size": CHUNKED + b"\r\nok\r\n0\r\n\r\n",
    "chunk-0x": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "chunk-overflow": CHUNKED + b"fffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "chunk-too-long": CHUNKED + b"2\r\nokX\r\n0\r\n\r\n",
    "interim-then-nonsense": b"HTTP/1.1 100 Continue\r\n\r\nnonsense",
    "header-of-9000": HEAD + b"X: " + b"a" * 9000 + b"\r\n" + EMPTY,
    "101-headers": HEAD + b"X: a\r\n" * 101 + EMPTY,
    "switching": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "switching-without-upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
}

BROKEN_OFF = {
    "nothing": b"",
    "status-line": b"HTTP/1.1 20",
    "header": HEAD + b"Content-Le",
    "headers": HEAD + b"X: y\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "body": HEAD + b"Content-Length: 10\r\n\r\nabc",
    "chunk": CHUNKED + b"5\r\nab",
    "chunk-size": CHUNKED + b"5",
    "chunk-end": CHUNKED + b"2\r\nok\r\n",
    "chunk-larger-than-memory": CHUNKED + b"ffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n",
}

WELL_ENOUGH = {
    "no-reason": (b"HTTP/1.1 200\r\n" + EMPTY, OK),
    "status-999": (b"HTTP/1.1 999 X\r\n" + EMPTY, STATUS),
    "line-feeds-alone": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", OK),
    "leading-empty-lines": (b"\r\n\r\nHTTP/1.1 200 OK\r\n" + EMPTY, OK),
    "latin-1": (HEAD + b"X: caf\xe9\r\n" + EMPTY, OK),
    "chunk-with-spaces": (CHUNKED + b"2  \r\nok\r\n0\r\n\r\n", OK),
    "chunk-extension": (CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n", OK),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\nRetry-After: 5\r\n\r\n", OK),
    "gzip-in-chunks": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", OK),
    "interim-with-length": (b"HTTP/1.1 100 C\r\nContent-Length: 5\r\n\r\n" + HEAD + EMPTY, OK),
    "interim-retry-after": (b"HTTP/1.1 103 E\r\nRetry-After: 9\r\n\r\nHTTP/1.1 503 No\r\n" + EMPTY, STATUS),
    "offers-an-upgrade": (HEAD + b"Connection: Upgrade\r\nUpgrade: h2,h2c\r\n" + EMPTY, OK),
    "wants-an-upgrade": (b"HTTP/1.1 426 U\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + EMPTY, STATUS),
}

EITHER_WAY = {
    "folded-header": HEAD + b"X: a\r\n b\r\n" + EMPTY,
    "folded-first": HEAD + b" X: a\r\n" + EMPTY,
    "control-character": HEAD + b"X: a\x01b\r\n" + EMPTY,
    "204-with-body": b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
    "body-longer": HEAD + b"Content-Length: 1\r\n\r\nok",
    "garbage-behind": HEAD + EMPTY + b"garbage",
    "half-an-answer-behind": HEAD + EMPTY + b"HTTP/1.1 500",
    "an-answer-behind": HEAD + EMPTY + b"HTTP/1.1 500 Extra\r\n" + EMPTY,
    "long-reason": b"HTTP/1.1 200 " + b"a" * 9000 + b"\r\n" + EMPTY,
}
"""Taken or refused, as the parser sees it or as the bytes happen to arrive; never handed to another delivery."""


def saying(raw: bytes, *, then_close: bool = False) -> object:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(raw)
        if then_close:
            peer.writer.close()
            await peer.writer.wait_closed()

    return behave


@pytest.mark.parametrize("raw", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_not_http_is_a_protocol_error(raw: bytes) -> None:
    result = await provoke(saying(raw))
    assert result.outcome is PROTOCOL
    assert result.timings.total < 4000, "it had to wait for the deadline"
    assert result.error
    assert result.error.isprintable()
    assert len(result.error) < 200


@pytest.mark.parametrize("raw", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_an_answer_that_ends_too_soon_is_a_protocol_error(raw: bytes) -> None:
    result = await provoke(saying(raw, then_close=True))
    assert result.outcome is PROTOCOL
    assert result.status == (200 if b"\r\n\r\n" in raw and b" 100 " not in raw else None)


@pytest.mark.parametrize("raw", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_an_answer_that_does_not_go_on_is_a_timeout(raw: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(raw)
        await peer.hung_up()

    result = await provoke(behave, attempt_timeout=0.15)
    assert result.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(("raw", "outcome"), WELL_ENOUGH.values(), ids=WELL_ENOUGH)
async def test_what_real_servers_write_is_read(raw: bytes, outcome: Outcome) -> None:
    result = await provoke(saying(raw))
    assert (result.outcome, result.retry_after) == (outcome, None)


@pytest.mark.parametrize("raw", EITHER_WAY.values(), ids=EITHER_WAY)
async def test_what_comes_behind_an_answer_is_never_the_next_deliverys(raw: bytes) -> None:
    result = await provoke(saying(raw))
    assert result.outcome in (OK, PROTOCOL)


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    result = await provoke(saying(HEAD + b"\r\nok", then_close=True))
    assert (result.outcome, result.response_body) == (OK, b"ok")


async def test_an_http_1_0_connection_is_not_used_again() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        await peer.hung_up()

    assert (await provoke(behave)).outcome is OK
