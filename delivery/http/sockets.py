"""Sockets as every connection outwards needs them, and what the kernel knows of them."""

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

TOO_SLOW: Final = "timed out waiting for the TCP connection"
RECEIVE_BUFFER: Final = 64 * 1024
"""Answers are small. Left alone it grows to megabytes, and the event loop decrypts all of it in one breath."""
LARGE_BODY: Final = 16 * 1024
"""Up to here the kernel takes a request at once."""
_INFO: Final = 136
"""Bytes of Linux's struct tcp_info, up to the last that is wanted."""
_ACKED: Final = struct.Struct("120xQ")
_RECEIVED: Final = struct.Struct("128xQ")
_RESET: Final = struct.pack("ii", 1, 0)
T = TypeVar("T")
Reached = TypeVar("Reached")


async def first_reached(
    addresses: Sequence[T], deadline: float, connect: Callable[[T, float], Awaitable[Reached]]
) -> Reached:
    """What `connect` returns for the first address that it reaches by the moment that it is given. Times are on the
    loop's clock.

    Raises AttemptFailed as the last address did, or what is no fault of an address: Blocked, LocalFault.
    """
    now = asyncio.get_running_loop().time
    failure = AttemptFailed(Outcome.TIMEOUT, TOO_SLOW)
    for index, address in enumerate(addresses):
        start = now()
        if start >= deadline:
            break
        try:
            return await connect(address, start + share(deadline - start, len(addresses) - index))
        except TimeoutError:
            failure = AttemptFailed(Outcome.TIMEOUT, TOO_SLOW)
        except LocalFault:
            raise
        except AttemptFailed as refused:
            failure = refused
    raise failure


async def connect_socket(address: Address, port: int, until: float) -> socket.socket:
    """`until` is on the loop's clock. Raises OutOfDescriptors, AttemptFailed when the address cannot be reached, or
    TimeoutError."""
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


def received(sock: socket.socket) -> int:
    """Bytes so far; 0 where the system does not tell."""
    return _of_info(sock, _RECEIVED)


def end_by_reset(sock: socket.socket) -> None:
    """Closing it will leave no time to linger: a peer that is blocked in writing hears nothing less."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class Departure:
    """Whether a large request has left, which a receiver that answers early need not wait for.

    Over TLS `get_write_buffer_size` knows nothing of the transport beneath, so the kernel is asked how much the peer has
    acknowledged. What TLS adds to it, a few hundred bytes at most, is the error.
    """

    def __init__(self, transport: asyncio.Transport, size: int) -> None:
        self._transport = transport
        self._sock: socket.socket = transport.get_extra_info("socket")
        self._until = _of_info(self._sock, _ACKED) + size

    def done(self) -> bool:
        if self._transport.get_write_buffer_size():
            return False
        acked = _of_info(self._sock, _ACKED)
        return not acked or acked >= self._until


def _of_info(sock: socket.socket, field: struct.Struct) -> int:
    if not hasattr(socket, "TCP_INFO") or sock.fileno() < 0:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO)
    count: int = field.unpack_from(info)[0] if len(info) == _INFO else 0
    return count
