"""The part of aiohttp that opens connections, replaced by one that only dials a checked address.

It stands on `BaseConnector`, which pools and cannot connect, and not on `TCPConnector`: there is no
resolver, no proxy of aiohttp's and no address parsing here to be talked into something. The URL that aiohttp is
given names the address; who the receiver is said to be travels apart from it (`server_hostname`, Host).

A pooled connection is found again by (address, port, tls, server name). Plain http shares connections by
address alone, which is all that plain http tells apart.

What belongs to one attempt is its `Exchange`, which reaches the connector by a context variable because
aiohttp's request has no place for it:

    the attempt ──Exchange──► connector: may it reuse?  dialled?  connect and TLS times
                         └──► protocol: first byte?  how much before the headers ended?
"""

import asyncio
from contextvars import ContextVar
from ipaddress import ip_address
from time import monotonic
from typing import Final, Protocol

from aiohttp import BaseConnector, ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from delivery.attempt_failed import AttemptFailed
from delivery.dialling import Dialler
from delivery.exchange import MAX_BEFORE_BODY, Exchange, Stage
from delivery.sending import Outcome
from delivery.tcp import LARGE_BODY, Departure
from delivery.tls_watch import FLOODED, Heard

MAX_IN_ALL: Final = 1024 * 1024
"""With the body, of which aiohttp counts what is inside its chunks but not what is between them."""


current_exchange: ContextVar[Exchange] = ContextVar("current_exchange")


class _Census(Protocol):
    alive: int


class PinnedProtocol(ResponseHandler, Heard):
    """One connection. It serves one exchange at a time and hears nothing in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, census: _Census) -> None:
        super().__init__(loop)
        self.exchange: Exchange | None = None
        self.departure: Departure | None = None
        """Of a request that may take a while to leave."""
        self._census = census

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._census.alive += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._census.alive -= 1
        super().connection_lost(exc)

    def close(self) -> None:
        """Drops the connection at once. A polite close waits, without limit, for the peer to read what was written."""
        self.abort()

    def data_received(self, data: bytes) -> None:
        """aiohttp calls this with nothing, too, to make its parser go on after a pause."""
        self.heard += len(data)
        if data and not self._expected(data):
            return
        super().data_received(data)

    def _expected(self, data: bytes) -> bool:
        exchange = self.exchange
        if exchange is None:
            # Nobody has asked. aiohttp would keep this as the answer to the next request.
            self.abort()
            return False
        if exchange.first_byte_at is None:
            exchange.first_byte_at = monotonic()
        exchange.bytes_read += len(data)
        in_body = exchange.stage is Stage.BODY
        if exchange.bytes_read > (MAX_IN_ALL if in_body else MAX_BEFORE_BODY):
            part = "body does" if in_body else "headers do"
            self._end_by(AttemptFailed(Outcome.PROTOCOL, f"the response's {part} not come to an end"))
            return False
        return True

    def flooded(self) -> None:
        self._end_by(AttemptFailed(Outcome.PROTOCOL, FLOODED))

    def _end_by(self, failure: AttemptFailed) -> None:
        """Who waits for the headers hears of it from the protocol, who reads the body from the payload."""
        if self._payload is not None:
            self._payload.set_exception(failure)
        self.abort()
        self.set_exception(failure)


class PinnedConnector(BaseConnector):
    """Create it in a running loop. The number of requests in flight is for the caller to bound."""

    def __init__(self, dialler: Dialler) -> None:
        super().__init__(limit=0, keepalive_timeout=dialler.limits.keepalive)
        self.alive = 0
        """Connections open, in use or idle."""
        self._dialler = dialler

    @property
    def idle(self) -> int:
        return sum(map(len, self._conns.values()))

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109  aiohttp's signature
    ) -> Connection:
        exchange = current_exchange.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert isinstance(protocol, PinnedProtocol)
            if exchange.dialled or not (exchange.fresh_only or protocol.should_close):
                break
            # It is not wanted, or something unasked came in the same breath as its last response's end.
            connection.close()
        protocol.exchange = exchange
        if exchange.body_size > LARGE_BODY and protocol.transport is not None:
            protocol.departure = Departure(protocol.transport, exchange.body_size)
        exchange.ready_at = monotonic()
        exchange.stage = Stage.HEADERS
        return connection

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],  # noqa: ARG002  aiohttp's signature
        timeout: ClientTimeout,  # noqa: ARG002, ASYNC109  aiohttp's signature
    ) -> ResponseHandler:
        assert req.url.raw_host is not None
        assert req.port is not None
        return await self._dialler.open(
            self._new_protocol,
            ip_address(req.url.raw_host),
            req.port,
            req.server_hostname if req.is_ssl() else None,
            current_exchange.get(),
            self._close_idle,
        )

    def _close_idle(self) -> None:
        for pooled in self._conns.values():
            for protocol, _ in pooled:
                protocol.close()
        self._conns.clear()

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Called with every connection that an exchange is done with, to pool it or to close it."""
        assert isinstance(protocol, PinnedProtocol)
        protocol.exchange = None
        crowded = self.alive > self._dialler.limits.kept_open
        departure, protocol.departure = protocol.departure, None
        on_its_way = departure is not None and protocol.transport is not None and not departure.done()
        super()._release(key, protocol, should_close=should_close or crowded or on_its_way)

    def _new_protocol(self) -> PinnedProtocol:
        return PinnedProtocol(self._loop, self)
