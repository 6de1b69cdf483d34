"""Opens a connection to one of the checked addresses, and to no other.

    next address ─► checked again ─► TCP ─► peer address as dialled? ─► TLS with the endpoint's name
         ▲                            │
         └── refused, unreachable, ◄──┘
             timed out

This module resolves no name and reads no environment variable.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic
from typing import Final

from delivery.egress.guard import Blocked, CheckedAddress, EgressPolicy
from delivery.egress.special_addresses import Address
from delivery.http import certificate_names
from delivery.http.attempt_contract import Outcome, SendLimits
from delivery.http.attempt_failed import AttemptFailed, tls_reason
from delivery.http.exchange import Exchange, Stage
from delivery.http.http1_connection import Connection
from delivery.http.local_faults import OutOfDescriptors, RateLimitedWarning
from delivery.http.proxy_tunnel import ProxyTunnel
from delivery.http.sockets import connect_socket, first_reached
from delivery.http.tls_watch import TlsWatch

TLS_SHUTDOWN_SECONDS: Final = 1.0


def default_ssl_context() -> ssl.SSLContext:
    """Trusts the system's authorities; TLS 1.2 or newer; offers HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Dialler:
    policy: EgressPolicy
    limits: SendLimits
    new_ssl_context: Callable[[], ssl.SSLContext]
    """Called at creation, and once more for the first name with an underscore."""
    tunnel: ProxyTunnel | None = None
    """Connects through the operator's egress proxy, when one is set."""
    _ssl_contexts: dict[bool, ssl.SSLContext] = field(default_factory=dict)
    """The key tells whether this module checks the certificate's name instead of OpenSSL."""
    _tls_watch: TlsWatch = field(default_factory=TlsWatch)
    _warning: RateLimitedWarning = field(default_factory=RateLimitedWarning)

    def __post_init__(self) -> None:
        self._ssl_contexts[False] = self.new_ssl_context()

    async def open(
        self,
        new_connection: Callable[[CheckedAddress], Connection],
        addresses: Sequence[CheckedAddress],
        port: int,
        server_name: str | None,
        exchange: Exchange,
        deadline: float,
        close_idle: Callable[[], None],
    ) -> Connection:
        """Without `server_name` it is plain http. `deadline` is the attempt's, on the loop's clock; the
        caller keeps it. `close_idle` is called when there is no descriptor left.

        Raises Blocked, AttemptFailed or TimeoutError.
        """
        exchange.dialled = True
        exchange.stage = Stage.CONNECTING
        exchange.addresses_tried = 0
        started = monotonic()

        async def connect(candidate: CheckedAddress, until: float) -> tuple[socket.socket, CheckedAddress]:
            scheme = "http" if server_name is None else "https"
            if reason := self.policy.refusal(scheme, port, candidate.address):
                raise Blocked(reason)
            exchange.address = candidate.text
            exchange.addresses_tried += 1
            return await self._connect(candidate.address, port, until, close_idle), candidate

        loop = asyncio.get_running_loop()
        limit = min(deadline, loop.time() + self.limits.connect_timeout)
        sock, reached = await first_reached(addresses, limit, connect)
        connected = monotonic()
        exchange.connect = connected - started
        if server_name is None:
            _, connection = await loop.create_connection(lambda: new_connection(reached), sock=sock)
            return connection
        exchange.stage = Stage.HANDSHAKE
        connection = await self._start_tls(lambda: new_connection(reached), sock, server_name)
        exchange.tls = monotonic() - connected
        return connection

    async def _connect(
        self, address: Address, port: int, until: float, close_idle: Callable[[], None]
    ) -> socket.socket:
        try:
            return await self._dial(address, port, until)
        except OutOfDescriptors:
            self._warning.log(
                "Out of file descriptors: idle connections are closed. Raise the limit (ulimit -n)."
            )
            close_idle()
            await asyncio.sleep(0)  # the loop closes them in its next iteration
            return await self._dial(address, port, until)

    async def _dial(self, address: Address, port: int, until: float) -> socket.socket:
        if self.tunnel is not None:
            return await self.tunnel.open(address, port, until)
        sock = await connect_socket(address, port, until)
        try:
            check_peer(sock, address, port)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _start_tls(
        self, new_connection: Callable[[], Connection], sock: socket.socket, server_name: str
    ) -> Connection:
        check_here = certificate_names.check_here(server_name)
        context = self._ssl_context(check_here)
        watched = self._tls_watch.add(sock)
        try:
            transport, connection = await asyncio.get_running_loop().create_connection(
                new_connection,
                sock=sock,
                ssl=context,
                server_hostname=server_name,
                ssl_handshake_timeout=self.limits.attempt_timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except BaseException as failure:
            self._tls_watch.forget(watched)
            if isinstance(failure, TimeoutError) or not isinstance(failure, OSError):
                raise
            reason = "the TLS handshake did not finish" if watched.flooded else tls_reason(failure)
            raise AttemptFailed(Outcome.TLS, reason) from failure
        watched.protocol = connection
        if check_here and not certificate_names.matches(transport.get_extra_info("peercert"), server_name):
            connection.expire()
            raise AttemptFailed(Outcome.TLS, f"invalid certificate: it is not for {server_name!r}")
        return connection

    def _ssl_context(self, check_here: bool) -> ssl.SSLContext:
        if check_here not in self._ssl_contexts:
            self._ssl_contexts[check_here] = certificate_names.without_name_check(self.new_ssl_context)
        return self._ssl_contexts[check_here]


def check_peer(sock: socket.socket, address: Address, port: int) -> None:
    """Raises Blocked unless the socket is connected to the dialled address and port, and AttemptFailed if the receiver
    has reset the connection since."""
    try:
        peer_host, peer_port, *_ = sock.getpeername()
    except OSError as failure:
        raise AttemptFailed(Outcome.CONNECT, "the connection was closed by the receiver") from failure
    if ip_address(peer_host) != address or peer_port != port:
        raise Blocked("the connection reached an address that was not checked")
