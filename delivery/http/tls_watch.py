"""Ends TLS connections that are a flood, from their handshake to their end, idle or not.

OpenSSL passes over some messages for as long as they come: HelloRequest in a handshake, NewSessionTicket after it. No
protocol hears of them, and the event loop feeds OpenSSL all that it can read: one such receiver kept a core busy for a
whole attempt. Neither asyncio nor uvloop lets anybody count those bytes on their way, but the kernel has counted
them (Linux, TCP_INFO). What it received beyond the application's data is weighed every now and then:

    excess = max(0, excess + received - 2 x heard)      more than MAX_EXCESS: reset

Twice, because a record costs 22 bytes whatever it carries. One timer looks at all connections: 2 µs each.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from delivery.http.sockets import end_by_reset, received

MAX_EXCESS: Final = 256 * 1024
"""Certificate chains are a few KiB; OpenSSL itself takes none of more than 100. The receive buffer comes on top."""
LOOK_SECONDS: Final = 0.2
FLOODED: Final = "too many TLS messages on the connection"


class Heard(asyncio.Protocol):
    """A protocol that counts what it hears."""

    heard = 0

    def flooded(self) -> None:
        """Drops the connection."""
        raise NotImplementedError


class Watched:
    def __init__(self, sock: socket.socket) -> None:
        self.flooded = False
        self.protocol: Heard | None = None
        """None until the handshake is done."""
        self._sock = sock
        self._excess = self._received = self._heard = 0

    def look(self) -> bool:
        """False: it is over."""
        if self._sock.fileno() < 0:
            return False
        count, heard = received(self._sock), 0 if self.protocol is None else self.protocol.heard
        more = count - self._received - 2 * (heard - self._heard)
        self._received, self._heard = count, heard
        self._excess = max(0, self._excess + more)
        if self._excess <= MAX_EXCESS:
            return True
        self._end()
        return False

    def _end(self) -> None:
        self.flooded = True
        with suppress(OSError):  # it has just ended
            end_by_reset(self._sock)
            if self.protocol is None:
                self._sock.shutdown(socket.SHUT_RDWR)
        if self.protocol is not None:
            self.protocol.flooded()


class TlsWatch:
    """Its timer runs while there is a connection to look at."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sock: socket.socket) -> Watched:
        watched = Watched(sock)
        self._watched.add(watched)
        if self._timer is None:
            self._wait()
        return watched

    def forget(self, watched: Watched) -> None:
        """What has connected is forgotten by itself, once it is closed."""
        self._watched.discard(watched)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            self._watched = {watched for watched in self._watched if watched.look()}
        finally:
            if self._watched:
                self._wait()
