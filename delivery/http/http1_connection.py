"""One HTTP/1.1 connection: a state machine around llhttp (the parser of Node.js, used through httptools).

    idle ──request──► headers ──final status──► body ──end──► idle      the connection is reusable
     │                   │ ▲ 1xx                 │      └───► aborted   it is not
     │ any byte          └─┘                     │ over the limit, cut off, malformed
     ▼                   ▼                       ▼
    aborted            aborted                 aborted

An exchange has its result once the final status line has arrived, however the connection then ends
(see response_status.py).

A connection serves one exchange at a time. Any byte that arrives on an idle connection aborts it. So do bytes
after the end of a response: they would be read as the response to the next request. The connection always
ends with `abort`, because `close` waits without limit for the peer to read what was written.

Three traps of the parser:
- After one response it parses a second one, so each callback after the end must refuse (`on_message_begin`
  first).
- It reports a header when the next one begins, so an endless header shows only in the bytes received
  (`_header_bytes`).
- Its status code may still be the previous response's, so bytes without complete headers are kept (`_head`).

The head and a small body leave in one write. http_sender.py lists what this costs.
"""

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from delivery.http.attempt_contract import Outcome, SendLimits
from delivery.http.attempt_failed import AttemptFailed, not_http, os_reason, tls_reason
from delivery.http.exchange import MAX_BEFORE_BODY, MAX_RETRY_AFTER, Exchange, Stage
from delivery.http.response_status import MAX_INTERIM, SWITCHING_PROTOCOLS, arrived_status
from delivery.http.sockets import LARGE_BODY, SendProgress
from delivery.http.tls_watch import FLOODED, CountingProtocol

MAX_JOINED_BODY: Final = 64 * 1024
"""Up to this size, copying the body behind the head costs less than a second write."""


Destination = tuple[str, int, str | None]
"""Address, port and TLS server name; without TLS the name is None."""


class ConnectionOwner(Protocol):
    """Counts connections and keeps the idle ones."""

    def opened(self, connection: "Connection") -> None: ...
    def released(self, connection: "Connection") -> None:
        """The connection may serve another exchange."""
        ...

    def closed(self, connection: "Connection") -> None:
        """The connection serves no other exchange. May be called more than once."""
        ...


class Connection(CountingProtocol):
    # State of the current exchange:
    _complete: bool
    _interim: bool
    _interim_count: int
    _reusable: bool
    _send_progress: SendProgress | None
    """Set for a large request, which may take a while to leave."""
    _header_bytes: int
    """Bytes received since the last complete header; may include the status line."""
    _head: bytes | bytearray
    """Bytes received before the headers were complete, without the chunk that completed them."""

    def __init__(self, owner: ConnectionOwner, limits: SendLimits, destination: Destination) -> None:
        self.destination = destination
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport
        self._response: asyncio.Future[None]
        self._parser = HttpResponseParser(self)
        # Real servers write these. All else follows RFC 9112 strictly.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._feed: Callable[[bytes], None] = self._parser.feed_data
        self._closed_by: AttemptFailed | None = None
        self._reset_exchange()

    def send_request(self, head: bytes, body: bytes, exchange: Exchange) -> asyncio.Future[None]:
        """Writes the request; the result is set when the response has been read.

        The future fails with AttemptFailed or TimeoutError. Cancelling it does not end the exchange:
        `time_out` does.
        """
        self._exchange = exchange
        self._response = self._loop.create_future()
        self._reset_exchange()
        if len(body) > LARGE_BODY and self._closed_by is None:
            self._send_progress = SendProgress(self._transport, len(body))
        exchange.connection = self
        exchange.stage = Stage.HEADERS
        exchange.ready_at = monotonic()
        if self._closed_by is not None:
            self.fail(self._closed_by)
        elif exchange.expired:
            self.fail(TimeoutError())
        elif len(body) <= MAX_JOINED_BODY:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return self._response

    def time_out(self, exchange: Exchange) -> None:
        """Ends this exchange. Does nothing when the connection already serves another one."""
        if self._exchange is exchange:
            self.fail(TimeoutError())

    def fail(self, failure: Exception) -> None:
        """Aborts the connection. The exchange fails with `failure`, unless its status has arrived."""
        self.expire()
        exchange = self._exchange
        if exchange is not None:
            if exchange.status is None:
                exchange.status = arrived_status(bytes(self._head))
            self._exchange = None
            if self._response.done():
                return
            if exchange.status is None:
                self._response.set_exception(failure)
            else:
                self._response.set_result(None)

    def expire(self) -> None:
        """Aborts the connection."""
        self._owner.closed(self)
        self._transport.abort()

    def flooded(self) -> None:
        self.fail(AttemptFailed(Outcome.PROTOCOL, FLOODED))

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not subclass it
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.expire()  # no request is under way
            return
        if exchange.first_byte_at is None:
            exchange.first_byte_at = monotonic()
        size = len(data)
        self.bytes_received += size
        self._header_bytes += size
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self._head += data
                too_many = self._interim_count > MAX_INTERIM
                self.fail(not_http("too many interim responses" if too_many else str(error)))
                return
            self._reusable = False
        if not self._complete:
            if exchange.stage is Stage.HEADERS:
                self._head = self._head or bytearray()
                self._head += data
            self._complete = self._limit_reached(size, exchange)
        if self._complete:
            self._complete_exchange()

    def eof_received(self) -> None:
        """The peer has closed its side, so no response can follow."""
        self.expire()

    def connection_lost(self, exc: Exception | None) -> None:
        """May be called twice."""
        if self._closed_by is not None:
            return
        self._owner.closed(self)
        self._closed_by = _close_reason(exc)
        if self._exchange is not None:
            self.fail(self._closed_by)
        self._feed = _discard  # breaks the reference cycle with the parser
        del self._parser

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        if self._complete:
            raise ValueError("unexpected second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes = 0
        exchange = self._exchange
        if exchange is None or exchange.stage is Stage.BODY:
            return  # a trailer field
        if len(name) == 11 and name.lower() == b"retry-after" and exchange.retry_after is None:
            exchange.retry_after = value.decode("latin-1").strip()[:MAX_RETRY_AFTER]

    def on_headers_complete(self) -> None:
        self._header_bytes = 0
        exchange = self._exchange
        assert exchange is not None
        status = self._parser.get_status_code()
        if status >= 200:
            exchange.status = status
            exchange.stage = Stage.BODY
            exchange.bytes_read = 0
            self._head = b""
            self._reusable = self._reusable and self._parser.should_keep_alive()
        elif 100 <= status != SWITCHING_PROTOCOLS:
            self._interim = True
            self._interim_count += 1
            if self._interim_count > MAX_INTERIM:
                raise ValueError("too many interim responses")
            exchange.retry_after = None
        else:
            exchange.status = status
            raise ValueError("unexpected protocol switch")

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and len(exchange.body) < self._limits.body_kept:
            exchange.body = (exchange.body + data)[: self._limits.body_kept]

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._complete = True

    # State changes.

    def _reset_exchange(self) -> None:
        self._complete = self._interim = False
        self._interim_count = 0
        self._reusable = True
        self._send_progress = None
        self._header_bytes = 0
        self._head = b""

    def _complete_exchange(self) -> None:
        """The response has been read: releases the connection, or aborts it when it cannot be reused."""
        self._exchange = None
        if self._reusable and self._request_sent():
            self._owner.released(self)
        else:
            self.expire()
        if not self._response.done():
            self._response.set_result(None)

    def _request_sent(self) -> bool:
        """Whether the whole request has left: receivers may respond before they have read it."""
        if self._send_progress is not None:
            return self._send_progress.done()
        return not self._transport.get_write_buffer_size()

    def _limit_reached(self, size: int, exchange: Exchange) -> bool:
        """Counts `size` more bytes and returns whether the body limit is reached.

        All bytes received count, so chunk headers and trailers do too. Headers over their limit fail the
        exchange.
        """
        exchange.bytes_read += size
        if exchange.stage is Stage.BODY:
            if exchange.bytes_read < self._limits.body_read:
                return False
            self._reusable = False
            return True
        if exchange.bytes_read > MAX_BEFORE_BODY:
            self.fail(AttemptFailed(Outcome.PROTOCOL, "incomplete response headers"))
        elif self._header_bytes > self._limits.header_line:
            self.fail(not_http(f"a header is longer than {self._limits.header_line} bytes"))
        return False


def _discard(_: bytes) -> None:
    pass


def _close_reason(exc: Exception | None) -> AttemptFailed:
    """With TLS 1.3 the server may refuse the handshake after it has ended for the client."""
    if isinstance(exc, ssl.SSLError):
        return AttemptFailed(Outcome.TLS, tls_reason(exc))
    if isinstance(exc, OSError):
        return AttemptFailed(Outcome.PROTOCOL, os_reason(exc))
    return AttemptFailed(Outcome.PROTOCOL, "the connection was closed before a complete response")
