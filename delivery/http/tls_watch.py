"""Resets TLS connections that flood the sender with TLS messages, during the handshake, in use or idle.

OpenSSL ignores any number of some messages: HelloRequest in a handshake, NewSessionTicket after it. The
protocol never sees them, but the event loop decrypts all it can read: one such receiver kept a core busy for
a whole attempt. asyncio and uvloop do not count those bytes, but the kernel does (Linux, TCP_INFO). Every
CHECK_SECONDS, the bytes received are compared with the application data:

    excess = max(0, excess + received - 2 x application data)      over MAX_EXCESS: reset

The factor 2 allows for small records: each has 22 bytes of overhead. One timer checks all connections, 2 µs
each.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from delivery.http.sockets import bytes_received, reset_on_close

MAX_EXCESS: Final = 256 * 1024
"""Certificate chains have a few KiB, and OpenSSL accepts at most 100. The receive buffer adds to it."""
CHECK_SECONDS: Final = 0.2
FLOODED: Final = "too many TLS messages on the connection"


class CountingProtocol(asyncio.Protocol):
    """A protocol that counts the application bytes it receives."""

    bytes_received = 0

    def flooded(self) -> None:
        """Aborts the connection."""
        raise NotImplementedError


class WatchedSocket:
    def __init__(self, sock: socket.socket) -> None:
        self.flooded = False
        self.protocol: CountingProtocol | None = None
        """None until the handshake is done."""
        self._sock = sock
        self._excess = self._received = self._delivered = 0

    def check(self) -> bool:
        """Returns False once the socket is closed or was reset here."""
        if self._sock.fileno() < 0:
            return False
        received = bytes_received(self._sock)
        delivered = 0 if self.protocol is None else self.protocol.bytes_received
        added = received - self._received - 2 * (delivered - self._delivered)
        self._received, self._delivered = received, delivered
        self._excess = max(0, self._excess + added)
        if self._excess <= MAX_EXCESS:
            return True
        self._reset()
        return False

    def _reset(self) -> None:
        self.flooded = True
        with suppress(OSError):  # the socket has just closed
            reset_on_close(self._sock)
            if self.protocol is None:
                self._sock.shutdown(socket.SHUT_RDWR)
        if self.protocol is not None:
            self.protocol.flooded()


class TlsWatch:
    """Checks all TLS connections. Its timer runs only while there are any."""

    def __init__(self) -> None:
        self._watched: set[WatchedSocket] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sock: socket.socket) -> WatchedSocket:
        watched = WatchedSocket(sock)
        self._watched.add(watched)
        if self._timer is None:
            self._schedule()
        return watched

    def forget(self, watched: WatchedSocket) -> None:
        """For a handshake that failed. A closed connection is removed by the next check."""
        self._watched.discard(watched)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._timer = None
        try:
            self._watched = {watched for watched in self._watched if watched.check()}
        finally:
            if self._watched:
                self._schedule()
