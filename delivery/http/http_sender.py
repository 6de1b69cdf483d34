"""One attempt over the wire: HTTP/1.1 with keep-alive, by a small protocol over llhttp.

    send ─► guard: addresses known? ─yes─► kept connection? ──yes──► ask ─► answer
              │ no                            │ no                    │ died before it said anything,
              ▼                               ▼                       │ and was not new
            guard: resolve ──────────────►  dial, check peer, TLS ◄───┘ (once)
                                              └─► cannot connect: the next checked address

One deadline over all of it. A kept connection that dies within a second of being taken is replaced once, by a new
one. The receiver may have seen both requests; webhooks are at-least-once and carry the event's id.

CPU of the sending process, µs a request (0.8 KB, 7 headers, 100 in flight, uvloop, a busy machine with 2 cores):

              aiohttp's client    this    a protocol that only writes and reads
    plain           127            17                     5
    TLS             145          33-47                   17

What each choice saves, measured alone, in µs: one timer for all attempts (`EqualTimeouts`) 1.9 against a timer for each and 5.2
against `asyncio.timeout`; known addresses are returned without awaiting for the same reason, since there is nothing to
limit; remembered decisions of the guard 3; `AttemptTimings` as a tuple 0.5.
"""

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic

from delivery.egress.endpoint_url import EndpointUrl
from delivery.egress.first_addresses import FirstAddresses
from delivery.egress.guard import EgressGuard
from delivery.http.attempt_contract import AttemptResult, OutboundRequest, SendLimits
from delivery.http.attempt_failed import AttemptFailed, explain
from delivery.http.connection_pool import ConnectionPool
from delivery.http.dialling import Dialler, default_ssl_context
from delivery.http.exchange import Exchange, Stage
from delivery.http.local_faults import LocalFault
from delivery.http.proxy_tunnel import EgressProxy, ProxyTunnel
from delivery.http.request_bytes import request_head
from delivery.http.response_status import judge
from delivery.http.timeouts import EqualTimeouts


class HttpSender:
    """Create it in a running loop; `close` drops what is in flight."""

    def __init__(
        self,
        guard: EgressGuard,
        limits: SendLimits | None = None,
        *,
        new_ssl_context: Callable[[], ssl.SSLContext] = default_ssl_context,
        proxy: EgressProxy | None = None,
    ) -> None:
        limits = limits or SendLimits()
        self._guard = guard
        self._first = FirstAddresses()
        tunnel = None if proxy is None else ProxyTunnel(proxy, guard.resolver)
        self._pool = ConnectionPool(Dialler(guard.policy, limits, new_ssl_context, tunnel))
        self._deadlines: EqualTimeouts[Exchange] = EqualTimeouts(
            asyncio.get_running_loop(), limits.attempt_timeout
        )

    @property
    def in_use(self) -> int:
        """Connections that serve an attempt."""
        return self._pool.in_use

    @property
    def idle(self) -> int:
        """Connections that are kept open to be used again."""
        return self._pool.idle

    async def send(self, request: OutboundRequest) -> AttemptResult:
        """Makes one attempt and ends it within its deadline. Raises nothing but CancelledError."""
        exchange = Exchange()
        deadline = self._deadlines.start(exchange)
        error: str | None
        local_fault = False
        try:
            await self._perform(request, exchange, deadline)
        except Exception as failure:  # noqa: BLE001  the contract is that an attempt ends in a result
            outcome, error = explain(failure, exchange.stage)
            if exchange.stage is Stage.CONNECTING and exchange.addresses_tried > 1:
                error = f"{error}; {exchange.addresses_tried} addresses tried"
            local_fault = isinstance(failure, LocalFault)
        except asyncio.CancelledError:
            exchange.expire()
            raise
        else:
            outcome, error = judge(exchange.status)
        finally:
            self._deadlines.stop(exchange)
        if exchange.addresses and not local_fault:
            self._remember_address(request.url, exchange)
        return exchange.result(outcome, error, local_fault=local_fault)

    async def close(self) -> None:
        await self._pool.close()
        self._deadlines.close()

    async def _perform(self, request: OutboundRequest, exchange: Exchange, deadline: float) -> None:
        url, head = request.url, request_head(request)
        addresses = self._guard.resolve_known(url)
        if addresses is None:
            async with asyncio.timeout_at(deadline):
                addresses = await self._guard.resolve(url, deadline)
        exchange.dns = monotonic() - exchange.started
        if len(addresses) > 1:
            exchange.addresses = addresses = self._first.order((url.host, url.port), addresses)
        exchange.address = addresses[0].text
        server_name = url.tls_name if url.scheme == "https" else None
        connection = self._pool.take((exchange.address, url.port, server_name))
        if connection is not None:
            try:
                await connection.ask(head, request.body, exchange)
            except AttemptFailed:
                if not exchange.met_a_stale_connection:
                    raise
                exchange.start_over()
            else:
                return
        async with asyncio.timeout_at(deadline):
            connection = await self._pool.dial(addresses, url.port, server_name, exchange, deadline)
        await connection.ask(head, request.body, exchange)

    def _remember_address(self, url: EndpointUrl, exchange: Exchange) -> None:
        assert exchange.address is not None
        host = (url.host, url.port)
        if exchange.status is None:
            self._first.failed(host, exchange.address, exchange.addresses)
        else:
            self._first.answered(host, exchange.address)
