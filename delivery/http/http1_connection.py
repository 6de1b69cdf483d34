"""One HTTP/1.1 connection: a state machine around llhttp (the parser that Node uses, by way of httptools).

    idle ──ask──► headers ──final status──► body ──end──► idle   everything was in order and the peer agrees
     │               │ ▲ 1xx                 │      └───► dropped  something was not
     │ any byte      └─┘                     │ more than is read, broken off, malformed
     ▼               ▼                       ▼
    dropped        dropped                 dropped

An exchange ends well once its final status line has arrived, however the connection then ends (response_status.py).

It serves one exchange at a time and hears nothing in between: what arrives on an idle connection ends it, and
so do bytes after the end of an answer, which would otherwise be the next exchange's answer. Dropping is always
`abort`: a polite close waits, without limit, for the peer to read what was written.

Three traps of the parser. It goes on with a next response when one ends, so every callback after the end must be
refused (`on_message_begin` is the first of them). It reports a header when the next one begins, so
a header without end is only seen in the bytes that it takes (`_unended`). And its status code may be the previous
response's, so bytes that did not bring all headers are kept (`_head`) until they do.

The head and a small body leave in one write. What it costs is in the header of http_sender.py.
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
from delivery.http.response_status import SWITCHING_PROTOCOLS, arrived_status
from delivery.http.sockets import LARGE_BODY, Departure
from delivery.http.tls_watch import FLOODED, Heard

JOINED_BODY: Final = 64 * 1024
"""Up to here copying a body behind its head is cheaper than a second write."""


Destination = tuple[str, int, str | None]
"""Address, port, and the server name for TLS; None is plain http."""


class ConnectionOwner(Protocol):
    """Counts connections and keeps the idle ones."""

    def made(self, connection: "Connection") -> None: ...
    def free(self, connection: "Connection") -> None:
        """It may serve again."""
        ...

    def gone(self, connection: "Connection") -> None:
        """It will not serve again. May be said more than once."""
        ...


class Connection(Heard):
    # Of the exchange at hand:
    _complete: bool
    _interim: bool
    _reusable: bool
    _departure: Departure | None
    """Of a request that may take a while to leave."""
    _unended: int
    """Bytes since the last header that was complete; the status line's may be among them."""
    _head: bytes | bytearray
    """What came before the headers were complete, without the piece that completed them."""

    def __init__(self, owner: ConnectionOwner, limits: SendLimits, destination: Destination) -> None:
        self.destination = destination
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[None]
        self._parser = HttpResponseParser(self)
        # As real servers write. The letter of RFC 9112 is kept in all else.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._feed: Callable[[bytes], None] = self._parser.feed_data
        self._lost: AttemptFailed | None = None
        self._begin()

    def ask(self, head: bytes, body: bytes, exchange: Exchange) -> asyncio.Future[None]:
        """Fails with AttemptFailed or TimeoutError. Cancelling it does not end the exchange: `give_up` does."""
        self._exchange = exchange
        self._answer = self._loop.create_future()
        self._begin()
        if len(body) > LARGE_BODY and self._lost is None:
            self._departure = Departure(self._transport, len(body))
        exchange.served_by = self
        exchange.stage = Stage.HEADERS
        exchange.ready_at = monotonic()
        if self._lost is not None:
            self.fail(self._lost)
        elif exchange.expired:
            self.fail(TimeoutError())
        elif len(body) <= JOINED_BODY:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return self._answer

    def give_up(self, exchange: Exchange) -> None:
        """Its time is over. By now the connection may serve another exchange, which must not notice."""
        if self._exchange is exchange:
            self.fail(TimeoutError())

    def fail(self, failure: Exception) -> None:
        """Drops the connection. The exchange fails with `failure`, unless its status has arrived."""
        self.expire()
        exchange = self._exchange
        if exchange is not None:
            if exchange.status is None:
                exchange.status = arrived_status(bytes(self._head))
            self._exchange = None
            if self._answer.done():
                return
            if exchange.status is None:
                self._answer.set_exception(failure)
            else:
                self._answer.set_result(None)

    def expire(self) -> None:
        """Drops the connection."""
        self._owner.gone(self)
        self._transport.abort()

    def flooded(self) -> None:
        self.fail(AttemptFailed(Outcome.PROTOCOL, FLOODED))

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.expire()  # nobody has asked
            return
        if exchange.first_byte_at is None:
            exchange.first_byte_at = monotonic()
        size = len(data)
        self.heard += size
        self._unended += size
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self._head += data
                self.fail(not_http(str(error)))
                return
            self._reusable = False
        if not self._complete:
            if exchange.stage is Stage.HEADERS:
                self._head = self._head or bytearray()
                self._head += data
            self._complete = self._weigh(size, exchange)
        if self._complete:
            self._end()

    def eof_received(self) -> None:
        """A peer that has closed its side has nothing more to say."""
        self.expire()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.gone(self)
        self._lost = _why_lost(exc)
        if self._exchange is not None:
            self.fail(self._lost)
        self._feed = _deaf  # the parser holds this object, and this object must not hold the parser
        del self._parser

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._unended = 0
        if self._complete:
            raise ValueError("unexpected second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unended = 0
        exchange = self._exchange
        if exchange is None or exchange.stage is Stage.BODY:
            return  # a trailer
        if len(name) == 11 and name.lower() == b"retry-after" and exchange.retry_after is None:
            exchange.retry_after = value.decode("latin-1").strip()[:MAX_RETRY_AFTER]

    def on_headers_complete(self) -> None:
        self._unended = 0
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

    # Its own affairs.

    def _begin(self) -> None:
        self._complete = self._interim = False
        self._reusable = True
        self._departure = None
        self._unended = 0
        self._head = b""

    def _end(self) -> None:
        """The exchange has its answer."""
        self._exchange = None
        if self._reusable and self._has_been_sent():
            self._owner.free(self)
        else:
            self.expire()
        if not self._answer.done():
            self._answer.set_result(None)

    def _has_been_sent(self) -> bool:
        """Receivers may answer before they have read."""
        if self._departure is not None:
            return self._departure.done()
        return not self._transport.get_write_buffer_size()

    def _weigh(self, size: int, exchange: Exchange) -> bool:
        """Whether enough has been read, with `size` bytes more. What is weighed is what the wire brought: chunk headers
        and trailers too."""
        exchange.bytes_read += size
        if exchange.stage is Stage.BODY:
            if exchange.bytes_read < self._limits.body_read:
                return False
            self._reusable = False
            return True
        if exchange.bytes_read > MAX_BEFORE_BODY:
            self.fail(AttemptFailed(Outcome.PROTOCOL, "incomplete response headers"))
        elif self._unended > self._limits.header_line:
            self.fail(not_http(f"a header is longer than {self._limits.header_line} bytes"))
        return False


def _deaf(_: bytes) -> None:
    pass


def _why_lost(exc: Exception | None) -> AttemptFailed:
    """With TLS 1.3 the server's no to our handshake arrives after it."""
    if isinstance(exc, ssl.SSLError):
        return AttemptFailed(Outcome.TLS, tls_reason(exc))
    if isinstance(exc, OSError):
        return AttemptFailed(Outcome.PROTOCOL, os_reason(exc))
    return AttemptFailed(Outcome.PROTOCOL, "the connection was closed before a complete response")
