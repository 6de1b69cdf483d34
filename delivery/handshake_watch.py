"""Ends a TLS handshake that is a flood.

OpenSSL passes over HelloRequest messages, four bytes each, for as long as they come, and the event loop feeds it all
that it can read: one such receiver kept a core busy for a whole attempt. Neither asyncio nor uvloop lets anybody count
those bytes on their way, but the kernel has counted them (Linux, TCP_INFO).
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final

MAX_BYTES: Final = 256 * 1024
"""Certificate chains are a few KiB; OpenSSL itself takes none of more than 100."""
LOOK_SECONDS: Final = 0.1
_RECEIVED: Final = struct.Struct("128xQ")
"""`tcpi_bytes_received` in Linux's struct tcp_info."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Closing with no time to linger ends the connection by RST: a peer that is blocked in writing hears nothing less."""


class HandshakeWatch:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        self.flooded = False

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if _received(self._sock) > MAX_BYTES:
            self.flooded = True
            with suppress(OSError):  # it has just ended
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._sock.shutdown(socket.SHUT_RDWR)
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)


def _received(sock: socket.socket) -> int:
    """Bytes so far; 0 where the system does not tell."""
    if not hasattr(socket, "TCP_INFO") or sock.fileno() < 0:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
    received: int = _RECEIVED.unpack(info)[0] if len(info) == _RECEIVED.size else 0
    return received
