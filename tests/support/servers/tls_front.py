"""A TLS front for a test's database by PostgreSQL's protocol, because the embedded server is built without TLS.

After the handshake everything is forwarded to the real server. The front rejects, with PostgreSQL's messages, what
pg_hba.conf would reject: logins of another kind than `only`, and those without a client certificate.
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class TlsFront:
    """All attributes except the port may change between logins. Without `context` it has no TLS."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        self._url = urlsplit(url)
        self.context = context
        self.asks_for_certificate = False
        self.only: Literal["tls", "plain"] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.logins: list[bool] = []
        """Whether each was encrypted."""

    def url(self, parameters: str = "", host: str = "localhost") -> str:
        login = self._url.netloc.rpartition("@")[0]
        return f"postgresql://{login}@{host}:{self.port}{self._url.path}?{parameters}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        encrypted = False
        if first == _SSL_REQUEST:
            writer.write(b"S" if self.context else b"N")
            if self.context:
                await writer.start_tls(self.context)
                encrypted = True
            first = await reader.readexactly(8)
        kind = "tls" if encrypted else "plain"
        if self.only not in {None, kind}:
            words = "SSL encryption" if encrypted else "no encryption"
            await _refuse(writer, f'no pg_hba.conf entry for host "127.0.0.1", {words}')
            return
        if encrypted and self.asks_for_certificate and not writer.get_extra_info("peercert"):
            await _refuse(writer, "connection requires a valid client certificate")
            return
        self.logins.append(encrypted)
        up, down = await asyncio.open_connection(self._url.hostname, self._url.port)
        down.write(first)
        try:
            await asyncio.wait(
                [asyncio.create_task(_copy(reader, down)), asyncio.create_task(_copy(up, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            down.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _refuse(writer: asyncio.StreamWriter, message: str) -> None:
    fields = f"SFATAL\0VFATAL\0C28000\0M{message}\0\0".encode()
    writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
    await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def tls_front(url: str, context: ssl.SSLContext | None) -> AsyncIterator[TlsFront]:
    front = TlsFront(url, context)
    server = await asyncio.start_server(front.serve, ["127.0.0.1"])
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        await front.end()
