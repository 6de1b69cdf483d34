"""A TCP proxy in front of the database that drops connections, answers or all traffic on request.

The idea is asyncpg's (asyncpg/_testbase/fuzzer.py).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit, urlunsplit

_PIECE = 65536


class Cut(Enum):
    """Where a connection is cut when a client sends the watched bytes."""

    BEFORE = auto()
    """The server does not receive them."""
    AFTER = auto()
    """The server executes them, and its answer is lost."""
    SILENCE = auto()
    """The server receives nothing on any connection until `restore`."""


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    last_words: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class TcpProxy:
    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._tells_server = asyncio.Event()
        self._tells_server.set()
        self._watched: tuple[tuple[bytes, ...], Cut] | None = None
        self.was_cut = asyncio.Event()
        """Set after a watched cut."""
        self.cuts = 0
        """Number of watched cuts."""
        self.rejected = asyncio.Event()
        """Set after a connection attempt while it is down."""
        self.latency_s = 0.0
        """Delay of each piece in each direction."""
        self.port = 0

    def url(self, url: str) -> str:
        """Returns the URL of the same database through this proxy."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Resets every connection."""
        for link in list(self._links):
            link.cut()

    def cut_clients(self) -> None:
        """Resets every connection, but closes the server's side only at `close_server_side`."""
        self._tells_server.clear()
        for link in list(self._links):
            link.client.transport.abort()

    def close_server_side(self) -> None:
        self._tells_server.set()

    def shut_down(self) -> None:
        """Resets every connection, and new ones immediately."""
        self.reject_new()
        self.cut()

    def reject_new(self) -> None:
        """Resets new connections immediately, but keeps existing ones."""
        self.rejected.clear()
        self._refuses = True

    def stop_forwarding(self) -> None:
        """Forwards nothing, not even a close, and resets nothing: like a firewall or a lost host."""
        self._flows.clear()

    def restore(self) -> None:
        self._refuses = False
        self._flows.set()

    def cut_at(self, words: bytes | tuple[bytes, ...], where: Cut) -> None:
        """Cuts the next connection that sends `words`, or any of several, once.

        A statement's text is sent at its prepare.
        """
        self.was_cut.clear()
        self._watched = (words if isinstance(words, tuple) else (words,), where)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):  # asyncio.streams would log it
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            self.rejected.set()
            return
        await self._flows.wait()
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            with suppress(OSError):
                await asyncio.gather(self._to_server(reader, link), self._to_client(server_reader, link))
        finally:
            self._links.discard(link)
            link.cut()

    async def _to_server(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await _read(reader):
            await self._under_way()
            if self._watched is not None and any(words in piece for words in self._watched[0]):
                _, where = self._watched
                self._watched = None
                match where:
                    case Cut.BEFORE:
                        self._has_cut(link)
                    case Cut.AFTER:
                        link.last_words.set()
                    case Cut.SILENCE:
                        self.stop_forwarding()
                        self.was_cut.set()
                        await self._flows.wait()
            link.server.write(piece)
            await link.server.drain()
        await self._tells_server.wait()
        await self._flows.wait()
        link.cut()

    async def _to_client(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await _read(reader):
            await self._under_way()
            if link.last_words.is_set():
                self._has_cut(link)
            link.client.write(piece)
            await link.client.drain()
        await self._flows.wait()
        link.cut()

    async def _under_way(self) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self._flows.wait()

    def _has_cut(self, link: _Link) -> None:
        link.cut()
        self.cuts += 1
        self.was_cut.set()
        raise ConnectionResetError

    async def close(self) -> None:
        self.close_server_side()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Returns nothing at the end, even after a reset."""
    with suppress(OSError):
        return await reader.read(_PIECE)
    return b""


@asynccontextmanager
async def proxying(url: str) -> AsyncIterator[TcpProxy]:
    """Yields a proxy in front of the database of `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    proxy = TcpProxy(parts.hostname, parts.port or 5432)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
