"""The sender on aiohttp: HTTP/1.1 with keep-alive, one request per attempt, everything bounded. The one that knows
the way through an egress proxy.

    send ─► guard: resolve, check, pin ─► POST to the address ─► headers ─► body, at most 64 KiB
            │ blocked, dns                │ blocked, connect,     │ protocol   │ protocol
            └──────────────── one deadline over all of it: timeout ────────────┘

aiohttp repeats idempotent requests by itself when a kept connection turns out to be dead; never a POST. So
that case is handled here: the peer closed an idle connection just as it was taken (at most a second later), nothing had been
answered, and the attempt goes once more over a fresh connection, within the same deadline. The receiver
may have seen both; webhooks are at-least-once and carry the event's id.
"""

import asyncio
import ssl
from functools import lru_cache
from time import monotonic
from typing import Final

from aiohttp import ClientConnectionError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from yarl import URL

from delivery.dialling import Dialler, default_ssl_context
from delivery.egress_guard import EgressGuard
from delivery.egress_proxy import EgressProxy, ProxyTunnel
from delivery.exchange import MAX_RETRY_AFTER, Exchange, Stage, judge
from delivery.our_faults import OurFault
from delivery.pinned_connector import PinnedConnector, current_exchange
from delivery.request_bytes import request_head
from delivery.sending import AttemptResult, OutboundRequest, SendLimits
from delivery.wire_errors import explain

READ_BUFFER: Final = 16 * 1024
_NO_TIMEOUT: Final = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_SET_BY_CALLER: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class AiohttpSender:
    """A Sender. Create it in a running loop; `close` drops what is in flight."""

    def __init__(
        self,
        guard: EgressGuard,
        limits: SendLimits | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        proxy: EgressProxy | None = None,
    ) -> None:
        self._guard = guard
        self._limits = limits or SendLimits()
        tunnel = None if proxy is None else ProxyTunnel(proxy)
        self._connector = PinnedConnector(
            Dialler(guard.policy, self._limits, ssl_context or default_ssl_context(), tunnel)
        )
        self._session = ClientSession(
            connector=self._connector,
            cookie_jar=DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_SET_BY_CALLER,
            read_bufsize=READ_BUFFER,
            max_line_size=self._limits.header_line,
            max_field_size=self._limits.header_line,
            max_headers=self._limits.header_count,
        )

    @property
    def in_use(self) -> int:
        """Connections that serve an attempt."""
        return self._connector.alive - self._connector.idle

    @property
    def idle(self) -> int:
        """Connections that are kept open to be used again."""
        return self._connector.idle

    async def send(self, request: OutboundRequest) -> AttemptResult:
        exchange = Exchange(body_size=len(request.body))
        deadline = asyncio.get_running_loop().time() + self._limits.attempt_timeout
        error: str | None
        ours = False
        try:
            async with asyncio.timeout_at(deadline):
                await self._perform(request, exchange, deadline)
        except Exception as failure:  # noqa: BLE001  the contract is that an attempt ends in a result
            outcome, error = explain(failure, exchange.stage)
            ours = isinstance(failure, OurFault)
        else:
            outcome, error = judge(exchange.status)
        return exchange.result(outcome, error, ours=ours)

    async def close(self) -> None:
        await self._session.close()

    async def _perform(self, request: OutboundRequest, exchange: Exchange, deadline: float) -> None:
        request_head(request)  # for its refusals; aiohttp writes its own
        target = await self._guard.resolve(request.url, deadline)
        exchange.address = target.text
        exchange.dns = monotonic() - exchange.started
        try:
            await self._post(request, target.text, exchange)
        except ClientConnectionError:
            if not exchange.met_a_stale_connection:
                raise
            exchange.start_over()
            await self._post(request, target.text, exchange)

    async def _post(self, request: OutboundRequest, address: str, exchange: Exchange) -> None:
        url = request.url
        token = current_exchange.set(exchange)
        try:
            async with self._session.post(
                _dialled_url(url.scheme, address, url.port, url.target),
                data=request.body,
                headers=(("Host", url.host_header), *request.headers),
                server_hostname=url.tls_name if url.scheme == "https" else None,
                allow_redirects=False,
            ) as response:
                exchange.stage = Stage.BODY
                exchange.status = response.status
                exchange.retry_after = _retry_after(response)
                await self._read_body(response, exchange)
        finally:
            current_exchange.reset(token)

    async def _read_body(self, response: ClientResponse, exchange: Exchange) -> None:
        """Up to the read limit; leaving the response unread is what makes aiohttp drop the connection."""
        kept, read = self._limits.body_kept, 0
        while read < self._limits.body_read:
            chunk = await response.content.readany()
            if not chunk:
                return
            read += len(chunk)
            if len(exchange.body) < kept:
                exchange.body = (exchange.body + chunk)[:kept]


@lru_cache(maxsize=1024)
def _dialled_url(scheme: str, address: str, port: int, target: str) -> URL:
    host = f"[{address}]" if ":" in address else address
    return URL(f"{scheme}://{host}:{port}{target}", encoded=True)


def _retry_after(response: ClientResponse) -> str | None:
    value = response.headers.get("Retry-After")
    return None if value is None else value[:MAX_RETRY_AFTER]
