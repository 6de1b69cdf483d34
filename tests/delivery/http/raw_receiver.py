"""Misbehaving receivers, a resolver with fixed results, and a sender to test with them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from delivery.egress.endpoint_url import parse_endpoint_url
from delivery.egress.guard import EgressGuard, EgressPolicy
from delivery.egress.resolver import DnsFailed, Resolver
from delivery.http.attempt_contract import OutboundRequest, SendLimits
from delivery.http.dialling import default_ssl_context
from delivery.http.exchange import Exchange
from delivery.http.http_sender import HttpSender
from delivery.http.proxy_tunnel import EgressProxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"id":"evt_1"}'


class Names:
    """A resolver with a list of results per name; the last one repeats."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, _deadline: float) -> Sequence[IPv4Address | IPv6Address]:
        self.asked.append(host)
        if host not in self.answers:
            raise DnsFailed("name or service not known")
        given = self.answers[host]
        return [ip_address(text) for text in (given.pop(0) if len(given) > 1 else given[0])]

    def cached(self, _host: str) -> None:
        """Nothing is cached."""


class Silence:
    """A resolver that never returns."""

    async def resolve(self, *_: object) -> Sequence[IPv4Address | IPv6Address]:
        await asyncio.Event().wait()
        raise AssertionError

    def cached(self, _host: str) -> None:
        pass


@dataclass
class Peer:
    """One connection as the receiver sees it."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    receiver: "Receiver"

    async def request(self) -> bytes:
        """The next request, byte for byte."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        raw = head + await self.reader.readexactly(length)
        self.receiver.requests.append(raw)
        return raw

    async def answer(self, raw: bytes = OK) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError  # asyncio raises this; uvloop raises RuntimeError
        self.writer.write(raw)
        await self.writer.drain()

    async def flood(self, piece: bytes) -> None:
        """Writes until the sender closes."""
        while True:
            await self.answer(piece)

    async def hung_up(self) -> None:
        """Returns when the sender has closed or reset the connection."""
        with suppress(OSError):
            while await self.reader.read(65536):
                pass


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Receiver:
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def all_closed(self) -> None:
        """Waits until the behaviour of every connection has ended."""
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.closed == self.connections)


async def always_ok(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.answer()


def answering(raw: bytes) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.answer(raw)
        await peer.hung_up()

    return behave


@asynccontextmanager
async def receiving(
    behave: Behaviour = always_ok,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        receiver.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await behave(Peer(receiver.connections, reader, writer, receiver))
        finally:
            writer.transport.abort()
            receiver.closed += 1
            async with receiver.changed:
                receiver.changed.notify_all()

    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    server = await asyncio.start_server(serve, sock=listener, ssl=tls)
    receiver.port = listener.getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def full_backlog(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A port with a full accept backlog: the kernel does not respond to further SYNs."""
    with socket.create_server((host, port), backlog=0) as listener:
        port = listener.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        try:
            for member in crowd:
                member.setblocking(False)
                member.connect_ex((host, port))
            await asyncio.sleep(0.05)  # for the kernel to queue the first ones
            yield port
        finally:
            for member in crowd:
                member.close()


system_authorities = lru_cache(1)(default_ssl_context)  # reading them takes 30 ms


@asynccontextmanager
async def sending(
    names: Resolver | None = None,
    *,
    allow: Sequence[str] = ("127.0.0.0/8", "::1/128"),
    guard: EgressGuard | None = None,
    tls: Callable[[], ssl.SSLContext] | None = None,
    proxy: EgressProxy | None = None,
    **limits: float,
) -> AsyncIterator[HttpSender]:
    """A sender. Errors that reach the event loop fail the test."""
    policy = EgressPolicy(tuple(ip_network(text) for text in allow))
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    sender = HttpSender(
        guard or EgressGuard(policy, names or Names()),
        SendLimits(**limits),
        new_ssl_context=tls or system_authorities,
        proxy=proxy,
    )
    try:
        yield sender
    finally:
        await sender.close()
    assert not unheard, f"errors reached the event loop: {unheard}"


def exchanges(sender: HttpSender) -> list[Exchange]:
    """The exchanges that a connection serves now."""
    serving = [connection._exchange for connection in sender._pool._open]
    return [exchange for exchange in serving if exchange is not None]


def to(url: str, *headers: tuple[str, str], body: bytes = BODY) -> OutboundRequest:
    return OutboundRequest(parse_endpoint_url(url), (*headers, ("Content-Type", "application/json")), body)


async def until(condition: Callable[[], bool]) -> None:
    """For effects without a signal that follow within a few loop iterations, such as close callbacks."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0)
