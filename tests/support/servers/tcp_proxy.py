"""A TCP proxy before the database that loses connections, answers and whole networks when a test says so.

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
    """Where a connection is cut when a client sends what the test watches for."""

    BEFORE = auto()
    """The server never hears of it."""
    AFTER = auto()
    """The server does it, and its answer is lost."""
    SILENCE = auto()
    """The server does not hear of it before `come_back`, nor of anything else on any connection."""


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
        """Set when a watched cut has happened."""
        self.cuts = 0
        """How many watched cuts have."""
        self.rejected = asyncio.Event()
        """Set when somebody tried to connect while it was down."""
        self.latency_s = 0.0
        """How long each piece is under way, each way."""
        self.port = 0

    def url(self, url: str) -> str:
        """The same database through this proxy."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Resets every connection there is."""
        for link in list(self._links):
            link.cut()

    def cut_clients(self) -> None:
        """Resets every connection, but the server learns of it only from `tell_server`."""
        self._tells_server.clear()
        for link in list(self._links):
            link.client.transport.abort()

    def close_server_side(self) -> None:
        self._tells_server.set()

    def shut_down(self) -> None:
        """Resets every connection, and new ones at once."""
        self.reject_new()
        self.cut()

    def reject_new(self) -> None:
        """Resets new connections at once, and leaves alone those there are."""
        self.rejected.clear()
        self._refuses = True

    def stop_forwarding(self) -> None:
        """Nothing comes through any more, not even an end, and nobody is told: a firewall, a vanished host."""
        self._flows.clear()

    def restore(self) -> None:
        self._refuses = False
        self._flows.set()

    def cut_at(self, words: bytes | tuple[bytes, ...], where: Cut) -> None:
        """Cuts the next connection that sends `words`, or any of several, once; a statement's text is sent when it is prepared."""
        self.was_cut.clear()
        self._watched = (words if isinstance(words, tuple) else (words,), where)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):  # which asyncio.streams would log
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
    """Nothing at the end, whether it was polite or not."""
    with suppress(OSError):
        return await reader.read(_PIECE)
    return b""


@asynccontextmanager
async def proxying(url: str) -> AsyncIterator[TcpProxy]:
    """Before the database that `url` names."""
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
