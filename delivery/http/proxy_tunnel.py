"""The way out through an operator's own HTTP proxy (DURO_EGRESS_PROXY), for networks that have no other.

    TCP to the proxy ─► CONNECT <checked address>:<port> ─► 2xx ─► from here on as if dialled directly

The proxy is told an address that the guard has checked, for http and https alike, and never a name: what it
might resolve is not what was checked. Its own address is the operator's choice, so the guard is not asked about it.
The proxy is believed to connect where it says; that cannot be checked from this side of it.

What it says of a destination (it may not go there, it could not connect) is the endpoint's trouble. All else, from a name
that does not resolve to an answer that is no HTTP, is ours: the operator is told, and no endpoint is blamed.
"""

import asyncio
import base64
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NoReturn
from urllib.parse import unquote

from delivery.egress.address_order import interleave
from delivery.egress.resolver import DnsFailed, Resolver
from delivery.egress.special_addresses import Address
from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed, os_reason
from delivery.http.local_faults import LocalFault, RateLimitedWarning
from delivery.http.sockets import connect_socket, first_reached
from schema.errors import InvalidInput

MAX_ANSWER: Final = 16 * 1024
_URL: Final = re.compile(r"http://(?:([^@/]*)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
NO_WAY_OUT: Final = "the sender's egress proxy failed"
_REFUSALS: Final = {
    403: "the egress proxy does not allow this destination",
    502: "the egress proxy could not connect",
    503: "the egress proxy could not connect",
    504: "the egress proxy could not connect in time",
}


@dataclass(frozen=True, slots=True)
class EgressProxy:
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of Proxy-Authorization."""


def parse_egress_proxy(text: str) -> EgressProxy:
    """`http://[user:password@]host:port`. Raises InvalidInput, which repeats nothing of it."""
    if not text.isprintable() or not text.isascii():
        _refuse("contains characters that are not printable ASCII; percent-encode them")
    match = _URL.fullmatch(text.strip())
    if match is None:
        _refuse("must have the form http://proxy.internal:3128 or http://user:password@proxy.internal:3128")
    credentials, host, port = match.groups()
    if not 1 <= int(port) <= 65535:
        _refuse("must have a port from 1 to 65535")
    return EgressProxy(host.strip("[]"), int(port), _basic(credentials))


def _basic(credentials: str | None) -> str | None:
    if credentials is None:
        return None
    user, colon, password = credentials.partition(":")
    if not user or not colon:
        _refuse("must have credentials of the form user:password")
    if ":" in unquote(user):
        _refuse("must not have a colon in its user name: a proxy would start the password there")
    pair = f"{unquote(user)}:{unquote(password)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _refuse(fault: str) -> NoReturn:
    raise InvalidInput(f"The egress proxy's URL {fault}.")


class ProxyTunnel:
    """Opens connections through the proxy. Its name is looked up like any other: cached, and off the loop."""

    def __init__(self, proxy: EgressProxy, resolver: Resolver) -> None:
        self._proxy = proxy
        self._resolver = resolver
        self._warning = RateLimitedWarning()

    async def open(self, address: Address, port: int, until: float) -> socket.socket:
        """`until` is on the loop's clock. Raises AttemptFailed or TimeoutError; LocalFault for what is the proxy's own
        trouble."""
        sock = await self._reach_in_time(until)
        try:
            async with asyncio.timeout_at(until):
                await self._connect(sock, address, port)
        except BaseException as failure:
            sock.close()
            if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
                raise self._no_way_out(f"it closed the connection: {os_reason(failure)}") from failure
            raise
        return sock

    async def _reach_in_time(self, until: float) -> socket.socket:
        try:
            async with asyncio.timeout_at(until):
                return await self._reach(until)
        except TimeoutError as failure:
            raise self._no_way_out("timed out connecting to it") from failure

    async def _reach(self, until: float) -> socket.socket:
        """A connection to the first of the proxy's addresses that takes one."""

        async def connect(address: Address, moment: float) -> socket.socket:
            return await connect_socket(address, self._proxy.port, moment)

        try:
            addresses = await self._addresses(until)
            return await first_reached(interleave(addresses), until, connect)
        except DnsFailed as failure:
            raise self._no_way_out(f"its name does not resolve: {failure}") from failure
        except LocalFault:
            raise
        except AttemptFailed as failure:
            raise self._no_way_out(f"cannot connect to it: {failure.error}") from failure

    async def _addresses(self, until: float) -> Sequence[Address]:
        try:
            return (ip_address(self._proxy.host),)
        except ValueError:
            return await self._resolver.resolve(self._proxy.host, until)

    async def _connect(self, sock: socket.socket, address: Address, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, self._request(address, port))
        answer = b""
        while b"\r\n\r\n" not in answer:
            if len(answer) > MAX_ANSWER:
                raise self._no_way_out(f"its response is longer than {MAX_ANSWER} bytes")
            received = await loop.sock_recv(sock, 4096)
            if not received:
                raise self._no_way_out("it closed the connection before a complete response")
            answer += received
        self._judge(answer)

    def _request(self, address: Address, port: int) -> bytes:
        target = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return "\r\n".join([*lines, "\r\n"]).encode()

    def _judge(self, answer: bytes) -> None:
        status_line = _STATUS.match(answer)
        if status_line is None:
            raise self._no_way_out("invalid HTTP response")
        status = int(status_line[1])
        if status in _REFUSALS:
            raise AttemptFailed(Outcome.CONNECT, f"{_REFUSALS[status]} ({status})")
        if not 200 <= status <= 299:
            does = "rejected its credentials" if status == 407 else "refused"
            raise self._no_way_out(f"it {does} ({status})")
        if not answer.endswith(b"\r\n\r\n") or answer.count(b"\r\n\r\n") > 1:
            raise self._no_way_out("it sent unexpected data")

    def _no_way_out(self, reason: str) -> LocalFault:
        self._warning.say(f"the egress proxy failed: {reason}")
        return LocalFault(NO_WAY_OUT)
