"""The part of aiohttp that opens connections, replaced by one that only dials a checked address.

It stands on `BaseConnector`, which pools and cannot connect, and not on `TCPConnector`: there is no
resolver, no proxy and no address parsing here to be talked into something. The URL that aiohttp is
given names the address; who the receiver is said to be travels apart from it (`server_hostname`, Host).

A pooled connection is found again by (address, port, tls, server name). Plain http shares connections by
address alone, which is all that plain http tells apart.

What belongs to one attempt is its `Exchange`, which reaches the connector by a context variable because
aiohttp's request has no place for it:

    the attempt ──Exchange──► connector: may it reuse?  dialled?  connect and TLS times
                         └──► protocol: first byte?  how much before the headers ended?
"""

import asyncio
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from time import monotonic
from typing import Final, Protocol

from aiohttp import BaseConnector, ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from delivery.egress_guard import Blocked, EgressPolicy
from delivery.sending import Outcome, SendLimits
from delivery.special_addresses import Address
from delivery.wire_errors import AttemptFailed, os_reason, tls_reason

MAX_BEFORE_BODY: Final = 512 * 1024
"""Bytes of interim responses and headers in one exchange. aiohttp bounds each header and their number, but reads
`100 Continue` for as long as it comes. Generous, since the bytes of an early body count until aiohttp's
own flow control (a few hundred KiB) stops it."""
TLS_SHUTDOWN_SECONDS: Final = 1.0


class Stage(StrEnum):
    """What an attempt is busy with, in the words that a timeout is reported with."""

    RESOLVING = "an answer from DNS"
    CONNECTING = "a TCP connection"
    HANDSHAKE = "the TLS handshake"
    HEADERS = "the response's headers"
    BODY = "the end of the response's body"


@dataclass(slots=True)
class Exchange:
    """Seconds of the monotonic clock: uvloop's own goes in whole milliseconds and stands still within one round."""

    stage: Stage = Stage.RESOLVING
    fresh_only: bool = False
    """Do not take a connection from the pool."""
    dialled: bool = False
    """The connection is new, not from the pool."""
    connect: float | None = None
    tls: float | None = None
    ready_at: float | None = None
    first_byte_at: float | None = None
    bytes_before_body: int = 0

    @property
    def waited(self) -> float | None:
        """For the first byte of the answer."""
        if self.ready_at is None or self.first_byte_at is None:
            return None
        return self.first_byte_at - self.ready_at

    @property
    def met_a_stale_connection(self) -> bool:
        """The connection came from the pool and died before it said anything: the peer had closed it, most likely."""
        return not self.dialled and self.ready_at is not None and self.first_byte_at is None


current_exchange: ContextVar[Exchange] = ContextVar("current_exchange")


class _Census(Protocol):
    alive: int


class PinnedProtocol(ResponseHandler):
    """One connection. It serves one exchange at a time and hears nothing in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, census: _Census) -> None:
        super().__init__(loop)
        self.exchange: Exchange | None = None
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
        if exchange.stage is not Stage.BODY:
            exchange.bytes_before_body += len(data)
            if exchange.bytes_before_body > MAX_BEFORE_BODY:
                self.abort()
                self.set_exception(
                    AttemptFailed(Outcome.PROTOCOL, "the response's headers do not come to an end")
                )
                return False
        return True


class PinnedConnector(BaseConnector):
    """Create it in a running loop. The number of requests in flight is for the caller to bound."""

    def __init__(self, policy: EgressPolicy, limits: SendLimits, ssl_context: ssl.SSLContext) -> None:
        super().__init__(limit=0, keepalive_timeout=limits.keepalive)
        self.alive = 0
        """Connections open, in use or idle."""
        self._policy = policy
        self._limits = limits
        self._ssl_context = ssl_context

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
        exchange.ready_at = monotonic()
        exchange.stage = Stage.HEADERS
        return connection

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],  # noqa: ARG002  aiohttp's signature
        timeout: ClientTimeout,  # noqa: ARG002, ASYNC109  aiohttp's signature
    ) -> ResponseHandler:
        exchange = current_exchange.get()
        exchange.dialled = True
        assert req.url.raw_host is not None
        assert req.port is not None
        address = ip_address(req.url.raw_host)
        if reason := self._policy.refusal(req.url.scheme, req.port, address):
            raise Blocked(reason)

        started = monotonic()
        exchange.stage = Stage.CONNECTING
        sock = await self._dial(address, req.port)
        connected = monotonic()
        exchange.connect = connected - started
        if not req.is_ssl():
            _, protocol = await self._loop.create_connection(self._new_protocol, sock=sock)
            return protocol
        exchange.stage = Stage.HANDSHAKE
        protocol = await self._start_tls(sock, req.server_hostname)
        exchange.tls = monotonic() - connected
        return protocol

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Called with every connection that an exchange is done with, to pool it or to close it."""
        assert isinstance(protocol, PinnedProtocol)
        protocol.exchange = None
        crowded = self.alive > self._limits.kept_open
        super()._release(key, protocol, should_close=should_close or crowded)

    def _new_protocol(self) -> PinnedProtocol:
        return PinnedProtocol(self._loop, self)

    async def _dial(self, address: Address, port: int) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(self._limits.connect_timeout):
                await self._loop.sock_connect(sock, (str(address), port))
            check_peer(sock, address, port)
        except BaseException as failure:
            sock.close()
            if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
                raise AttemptFailed(Outcome.CONNECT, os_reason(failure)) from failure
            raise
        return sock

    async def _start_tls(self, sock: socket.socket, server_name: str | None) -> PinnedProtocol:
        try:
            _, protocol = await self._loop.create_connection(
                self._new_protocol,
                sock=sock,
                ssl=self._ssl_context,
                server_hostname=server_name,
                ssl_handshake_timeout=self._limits.attempt_timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except TimeoutError:
            raise
        except OSError as failure:
            raise AttemptFailed(Outcome.TLS, tls_reason(failure)) from failure
        return protocol


def check_peer(sock: socket.socket, address: Address, port: int) -> None:
    """Raises Blocked unless the socket is connected to where it was sent."""
    peer_host, peer_port, *_ = sock.getpeername()
    if ip_address(peer_host) != address or peer_port != port:
        raise Blocked("the connection went to another address than the one that was checked")
