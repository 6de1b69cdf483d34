"""Opens outgoing TCP sockets and reads the kernel's counters of them (TCP_INFO)."""

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from delivery.egress.address_order import share
from delivery.egress.special_addresses import Address
from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed, os_reason
from delivery.http.local_faults import LocalFault, OutOfDescriptors

CONNECT_TIMED_OUT: Final = "timed out waiting for the TCP connection"
RECEIVE_BUFFER: Final = 64 * 1024
"""The default grows to megabytes, which the event loop decrypts in one step. Responses are small."""
LARGE_BODY: Final = 16 * 1024
"""Up to this size the kernel buffers a request immediately."""
_TCP_INFO_BYTES: Final = 136
"""Bytes of Linux's struct tcp_info, up to the last field read here."""
_ACKED: Final = struct.Struct("120xQ")
_RECEIVED: Final = struct.Struct("128xQ")
_RESET: Final = struct.pack("ii", 1, 0)
T = TypeVar("T")
Reached = TypeVar("Reached")


async def first_reached(
    addresses: Sequence[T], deadline: float, connect: Callable[[T, float], Awaitable[Reached]]
) -> Reached:
    """Returns what `connect(address, until)` returns for the first address that it reaches.

    `deadline` and `until` are on the loop's clock. Raises the last address's AttemptFailed. Raises Blocked
    and LocalFault immediately, because another address would not help.
    """
    now = asyncio.get_running_loop().time
    failure = AttemptFailed(Outcome.TIMEOUT, CONNECT_TIMED_OUT)
    for index, address in enumerate(addresses):
        start = now()
        if start >= deadline:
            break
        try:
            return await connect(address, start + share(deadline - start, len(addresses) - index))
        except TimeoutError:
            failure = AttemptFailed(Outcome.TIMEOUT, CONNECT_TIMED_OUT)
        except LocalFault:
            raise
        except AttemptFailed as refused:
            failure = refused
    raise failure


async def connect_socket(address: Address, port: int, until: float) -> socket.socket:
    """Connects until `until` on the loop's clock. Raises OutOfDescriptors, AttemptFailed or TimeoutError."""
    sock: socket.socket | None = None
    try:
        sock = _new_socket(address)
        async with asyncio.timeout_at(until):
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException as failure:
        if sock is not None:
            sock.close()
        if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
            raise AttemptFailed(Outcome.CONNECT, os_reason(failure)) from failure
        raise
    return sock


def _new_socket(address: Address) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as failure:
        if failure.errno in (errno.EMFILE, errno.ENFILE):
            raise OutOfDescriptors from failure
        raise
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def bytes_received(sock: socket.socket) -> int:
    """The bytes received so far; 0 on systems without TCP_INFO."""
    return _tcp_info(sock, _RECEIVED)


def reset_on_close(sock: socket.socket) -> None:
    """Makes close() send RST: nothing less ends a peer that is blocked in writing."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class SendProgress:
    """Tells whether a large request has left: a receiver may respond before it has read all of it.

    Over TLS `get_write_buffer_size` does not include the transport below, so the kernel's count of
    acknowledged bytes is compared. TLS overhead makes it inexact by a few hundred bytes at most.
    """

    def __init__(self, transport: asyncio.Transport, size: int) -> None:
        self._transport = transport
        self._sock: socket.socket = transport.get_extra_info("socket")
        self._until = _tcp_info(self._sock, _ACKED) + size

    def done(self) -> bool:
        if self._transport.get_write_buffer_size():
            return False
        acked = _tcp_info(self._sock, _ACKED)
        return not acked or acked >= self._until


def _tcp_info(sock: socket.socket, field: struct.Struct) -> int:
    if not hasattr(socket, "TCP_INFO") or sock.fileno() < 0:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    count: int = field.unpack_from(info)[0] if len(info) == _TCP_INFO_BYTES else 0
    return count
