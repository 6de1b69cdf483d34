"""The state machine alone: the result does not depend on how the network splits the bytes."""

import asyncio
import errno
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delivery.http.attempt_contract import SendLimits
from delivery.http.attempt_failed import AttemptFailed, explain
from delivery.http.exchange import MAX_BEFORE_BODY, Exchange
from delivery.http.http1_connection import Connection
from delivery.http.response_status import arrived_status
from tests.delivery.http import test_malformed_responses as answers

RAW = [
    *answers.NO_STATUS.values(),
    *(raw for raw, _ in answers.UNEXPECTED.values()),
    *(answers.HEAD + tail for tail in answers.MALFORMED.values()),
    *answers.NO_STATUS_LINE.values(),
    *answers.BROKEN_OFF.values(),
    *(raw for raw, _ in answers.KEPT.values()),
    *answers.CLOSED.values(),
]


@dataclass
class Owner:
    kept: list[Connection] = field(default_factory=list)

    lost: list[Connection] = field(default_factory=list)

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None:
        self.lost.append(connection)

    def released(self, connection: Connection) -> None:
        self.kept.append(connection)


class Wire:
    """A transport that sends nothing."""

    aborted = False
    written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


def connected() -> tuple[Connection, Owner, Wire]:
    owner, wire = Owner(), Wire()
    connection = Connection(owner, SendLimits(), ("127.0.0.1", 80, None))
    connection.connection_made(wire)
    return connection, owner, wire


async def read(pieces: list[bytes], on: tuple[Connection, Owner, Wire] | None = None) -> tuple[object, ...]:
    """The result of an exchange that receives these pieces and then the end of the connection."""
    connection, owner, wire = on or connected()
    exchange = Exchange()
    answer = connection.send_request(b"", b"", exchange)
    for piece in pieces:
        if not wire.aborted:
            connection.data_received(piece)
    kept = bool(owner.kept) and not wire.aborted
    connection.connection_lost(None)
    failure = answer.exception()
    outcome = None if failure is None else explain(failure, "")
    return (outcome, exchange.status, exchange.body, kept)


@given(st.sampled_from(RAW), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_result_is_the_same_however_bytes_are_split(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]

    async def both() -> tuple[object, object]:
        return await read([raw]), await read(pieces)

    whole, cut = asyncio.run(both())
    assert whole == cut


KEPT = sorted({raw for raw, _ in answers.KEPT.values()})


@given(st.sampled_from(RAW), st.sampled_from(KEPT), st.data())
def test_a_reused_connection_never_repeats_its_last_status(
    raw: bytes, before: bytes, data: st.DataObject
) -> None:
    """The parser keeps its status code after the response."""
    piece = raw[: data.draw(st.integers(0, min(len(raw), 200)))]

    async def both() -> tuple[object, object]:
        connection, owner, wire = connected()
        connection.send_request(b"", b"", Exchange())
        connection.data_received(before)
        assert owner.kept
        assert not wire.aborted
        return await read([piece], (connection, owner, wire)), await read([piece])

    again, alone = asyncio.run(both())
    assert again[:3] == alone[:3]


@given(st.sampled_from(RAW), st.data())
def test_the_status_line_is_read_as_the_parser_reads_it(raw: bytes, data: st.DataObject) -> None:
    piece = raw[: data.draw(st.integers(0, len(raw)))]
    finals: list[int] = []

    class Parsed:
        def on_headers_complete(self) -> None:
            if parser.get_status_code() >= 200:
                finals.append(parser.get_status_code())

    parser = HttpResponseParser(Parsed())
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
    with suppress(HttpParserError, HttpParserUpgrade):
        parser.feed_data(piece)
    if finals:
        assert arrived_status(piece) == finals[0]


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_no_bytes_cause_an_unexpected_error(pieces: list[bytes]) -> None:
    result = asyncio.run(read([b"HTTP/1.1 200 OK\r\n", *pieces]))
    assert "internal" not in str(result[0])


@pytest.mark.parametrize("behind", [b"\0", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"H"])
async def test_a_connection_with_extra_bytes_is_not_reused(behind: bytes) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert (await read([ok]))[-1] is True
    assert (await read([ok + behind]))[-1] is False
    assert (await read([ok, behind]))[-1] is False
    for cut in range(1, len(ok)):
        assert await read([ok[:cut], ok[cut:] + behind]) == (None, 200, b"ok", False)


async def test_an_endless_header_has_its_own_lower_limit() -> None:
    """The parser copies all pieces for each new one."""
    connection, _, wire = connected()
    exchange = Exchange()
    answer = connection.send_request(b"", b"", exchange)
    connection.data_received(b"HTTP/1.1 200 OK\r\nX: ")
    pieces = 0
    while not wire.aborted:
        connection.data_received(b"a" * 100)
        pieces += 1
        assert pieces <= SendLimits().header_line // 100 + 1
    assert pieces == SendLimits().header_line // 100 + 1
    assert answer.exception() is None
    assert exchange.status == 200


async def test_eof_aborts_without_waiting_for_the_peer_to_read() -> None:
    connection, owner, wire = connected()
    connection.eof_received()
    assert (wire.aborted, owner.lost) == (True, [connection])


async def test_a_connection_that_closes_while_idle_is_reported_closed() -> None:
    connection, owner, _ = connected()
    connection.connection_lost(ConnectionResetError())
    assert owner.lost == [connection]


async def test_a_request_on_a_closed_connection_fails_with_the_reason() -> None:
    connection, _, wire = connected()
    connection.connection_lost(ConnectionResetError(errno.ECONNRESET, "reset"))
    failure = connection.send_request(b"x", b"", Exchange()).exception()
    assert isinstance(failure, AttemptFailed)
    assert (failure.error, wire.written) == ("connection reset by peer", b"")


async def test_an_expired_attempt_sends_nothing() -> None:
    connection, _, wire = connected()
    exchange = Exchange()
    exchange.expire()
    assert isinstance(connection.send_request(b"x", b"", exchange).exception(), TimeoutError)
    assert (wire.aborted, wire.written) == (True, b"")


def responding(raw: bytes) -> tuple[Connection, Wire, asyncio.Future[None]]:
    connection, _, wire = connected()
    answer = connection.send_request(b"", b"", Exchange())
    connection.data_received(raw)
    return connection, wire, answer


async def test_a_body_is_read_up_to_its_limit_and_no_further() -> None:
    limit = SendLimits().body_read
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
    connection, wire, answer = responding(head)
    connection.data_received(b"x" * (limit - len(head) - 1))
    assert (wire.aborted, answer.done()) == (False, False)
    connection.data_received(b"x")
    assert (wire.aborted, answer.done()) == (True, True)


async def test_a_header_may_be_as_long_as_its_limit() -> None:
    connection, wire, _ = responding(b"HTTP/1.1 200 OK\r\nX: ")
    connection.data_received(b"a" * SendLimits().header_line)
    assert not wire.aborted
    connection.data_received(b"a")
    assert wire.aborted


async def test_headers_may_be_as_long_as_their_limit() -> None:
    line = b"X: " + b"a" * 59 + b"\r\n"
    start = b"HTTP/1.1 200 OK\r\n"
    lines, rest = divmod(MAX_BEFORE_BODY - len(start), len(line))
    connection, wire, _ = responding(start)
    for _ in range(lines):
        connection.data_received(line)
    connection.data_received(b"Y" * rest)
    assert not wire.aborted
    connection.data_received(b"Y")
    assert wire.aborted


async def test_retry_after_in_a_trailer_is_ignored() -> None:
    connection, _, _ = connected()
    exchange = Exchange()
    connection.send_request(b"", b"", exchange)
    head = b"HTTP/1.1 503 Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.data_received(head + b"0\r\nRetry-After: 5\r\n\r\n")
    assert (exchange.status, exchange.retry_after) == (503, None)
