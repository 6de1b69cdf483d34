"""Connects through the operator's HTTP proxy (DURO_EGRESS_PROXY), for networks without direct internet
access.

    TCP to the proxy ─► CONNECT <checked address>:<port> ─► 2xx ─► then the same as a direct connection

The proxy receives an address that the guard has checked, for http and https alike. It never receives a name,
which it could resolve to another address. The guard does not check the proxy's own address, because the
operator chose it. Whether the proxy connects to the requested address cannot be verified from here.

A proxy that refuses or cannot reach the destination fails the attempt, and the endpoint's health counts it.
All other failures, such as a proxy name that does not resolve or an invalid response, are local faults: they
are logged for the operator and do not count against the endpoint.
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
from schema.secret_repr import HidesSecrets

MAX_RESPONSE: Final = 16 * 1024
_URL: Final = re.compile(r"http://(?:([^@/]*)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
PROXY_FAILED: Final = "the sender's egress proxy failed"
_REFUSALS: Final = {
    403: "the egress proxy does not allow this destination",
    502: "the egress proxy could not connect",
    503: "the egress proxy could not connect",
    504: "the egress proxy could not connect in time",
}


@dataclass(frozen=True, slots=True)
class EgressProxy(HidesSecrets):
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of Proxy-Authorization."""


def parse_egress_proxy(text: str) -> EgressProxy:
    """Parses `http://[user:password@]host:port`. Raises InvalidInput, whose message repeats none of it."""
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
    """Opens connections through the proxy. The resolver looks up its name like any other."""

    def __init__(self, proxy: EgressProxy, resolver: Resolver) -> None:
        self._proxy = proxy
        self._resolver = resolver
        self._warning = RateLimitedWarning()

    async def open(self, address: Address, port: int, until: float) -> socket.socket:
        """Opens a tunnel until `until` on the loop's clock. Raises AttemptFailed, LocalFault (the proxy
        failed) or TimeoutError.
        """
        sock = await self._connect_to_proxy(until)
        try:
            async with asyncio.timeout_at(until):
                await self._request_tunnel(sock, address, port)
        except BaseException as failure:
            sock.close()
            if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
                raise self._proxy_failed(f"it closed the connection: {os_reason(failure)}") from failure
            raise
        return sock

    async def _connect_to_proxy(self, until: float) -> socket.socket:
        try:
            async with asyncio.timeout_at(until):
                return await self._first_address(until)
        except TimeoutError as failure:
            raise self._proxy_failed("timed out connecting to it") from failure

    async def _first_address(self, until: float) -> socket.socket:
        """Connects to the first reachable address of the proxy."""

        async def connect(address: Address, deadline: float) -> socket.socket:
            return await connect_socket(address, self._proxy.port, deadline)

        try:
            addresses = await self._addresses(until)
            return await first_reached(interleave(addresses), until, connect)
        except DnsFailed as failure:
            raise self._proxy_failed(f"its name does not resolve: {failure}") from failure
        except LocalFault:
            raise
        except AttemptFailed as failure:
            raise self._proxy_failed(f"cannot connect to it: {failure.error}") from failure

    async def _addresses(self, until: float) -> Sequence[Address]:
        try:
            return (ip_address(self._proxy.host),)
        except ValueError:
            return await self._resolver.resolve(self._proxy.host, until)

    async def _request_tunnel(self, sock: socket.socket, address: Address, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, self._request(address, port))
        response = b""
        while b"\r\n\r\n" not in response:
            if len(response) > MAX_RESPONSE:
                raise self._proxy_failed(f"its response is longer than {MAX_RESPONSE} bytes")
            received = await loop.sock_recv(sock, 4096)
            if not received:
                raise self._proxy_failed("it closed the connection before a complete response")
            response += received
        self._check(response)

    def _request(self, address: Address, port: int) -> bytes:
        target = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return "\r\n".join([*lines, "\r\n"]).encode()

    def _check(self, response: bytes) -> None:
        status_line = _STATUS.match(response)
        if status_line is None:
            raise self._proxy_failed("invalid HTTP response")
        status = int(status_line[1])
        if status in _REFUSALS:
            raise AttemptFailed(Outcome.CONNECT, f"{_REFUSALS[status]} ({status})")
        if not 200 <= status <= 299:
            does = "rejected its credentials" if status == 407 else "refused"
            raise self._proxy_failed(f"it {does} ({status})")
        if not response.endswith(b"\r\n\r\n") or response.count(b"\r\n\r\n") > 1:
            raise self._proxy_failed("it sent unexpected data")

    def _proxy_failed(self, reason: str) -> LocalFault:
        self._warning.log(f"the egress proxy failed: {reason}")
        return LocalFault(PROXY_FAILED)
