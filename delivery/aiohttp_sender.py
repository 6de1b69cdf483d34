"""The sender on aiohttp: HTTP/1.1 with keep-alive, one request per attempt, everything bounded.

    send ─► guard: resolve, check, pin ─► POST to the address ─► headers ─► body, at most 64 KiB
            │ blocked, dns                │ blocked, connect,     │ protocol   │ protocol
            └──────────────── one deadline over all of it: timeout ────────────┘

aiohttp repeats idempotent requests by itself when a kept connection turns out to be dead; never a POST. So
that case is handled here: the peer closed an idle connection just as it was taken, nothing had been
answered, and the attempt goes once more over a fresh connection, within the same deadline. The receiver
may have seen both; webhooks are at-least-once and carry the event's id.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import Final

from aiohttp import ClientConnectionError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from yarl import URL

from delivery.egress_guard import EgressGuard
from delivery.pinned_connector import Exchange, PinnedConnector, Stage, current_exchange
from delivery.sending import AttemptResult, OutboundRequest, Outcome, SendLimits, Timings
from delivery.wire_errors import explain

READ_BUFFER: Final = 16 * 1024
MAX_RETRY_AFTER: Final = 100
_NO_TIMEOUT: Final = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_SET_BY_CALLER: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def default_ssl_context() -> ssl.SSLContext:
    """The system's authorities, TLS 1.2 or newer, HTTP/1.1 alone."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(slots=True)
class _Attempt:
    """What is known of an attempt so far; a failure at any point reports it."""

    started: float = field(default_factory=monotonic)
    exchange: Exchange = field(default_factory=Exchange)
    address: str | None = None
    dns: float | None = None
    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""

    def result(self, outcome: Outcome, error: str | None) -> AttemptResult:
        exchange = self.exchange
        return AttemptResult(
            outcome=outcome,
            status=self.status,
            error=error,
            retry_after=self.retry_after,
            response_body=self.body,
            address=self.address,
            timings=Timings(
                dns=_ms(self.dns),
                connect=_ms(exchange.connect),
                tls=_ms(exchange.tls),
                first_byte=_ms(exchange.waited),
                total=(monotonic() - self.started) * 1000,
            ),
        )


class AiohttpSender:
    """A Sender. Create it in a running loop; `close` drops what is in flight."""

    def __init__(
        self,
        guard: EgressGuard,
        limits: SendLimits | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._limits = limits or SendLimits()
        self._connector = PinnedConnector(guard.policy, self._limits, ssl_context or default_ssl_context())
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

    async def send(self, request: OutboundRequest) -> AttemptResult:
        attempt = _Attempt()
        deadline = asyncio.get_running_loop().time() + self._limits.attempt_timeout
        error: str | None
        try:
            async with asyncio.timeout_at(deadline):
                await self._perform(request, attempt, deadline)
        except Exception as failure:  # noqa: BLE001  the contract is that an attempt ends in a result
            outcome, error = explain(failure, attempt.exchange.stage)
        else:
            outcome, error = _judge(attempt.status)
        return attempt.result(outcome, error)

    async def close(self) -> None:
        await self._session.close()

    async def _perform(self, request: OutboundRequest, attempt: _Attempt, deadline: float) -> None:
        target = await self._guard.resolve(request.url, deadline)
        attempt.address = str(target.address)
        attempt.dns = monotonic() - attempt.started
        try:
            await self._post(request, attempt.address, attempt)
        except ClientConnectionError:
            if not attempt.exchange.met_a_stale_connection:
                raise
            attempt.exchange = Exchange(fresh_only=True)
            await self._post(request, attempt.address, attempt)

    async def _post(self, request: OutboundRequest, address: str, attempt: _Attempt) -> None:
        url = request.url
        token = current_exchange.set(attempt.exchange)
        try:
            async with self._session.post(
                _dialled_url(url.scheme, address, url.port, url.target),
                data=request.body,
                headers=(("Host", url.host_header), *request.headers),
                server_hostname=url.tls_name if url.scheme == "https" else None,
                allow_redirects=False,
            ) as response:
                attempt.exchange.stage = Stage.BODY
                attempt.status = response.status
                attempt.retry_after = _retry_after(response)
                await self._read_body(response, attempt)
        finally:
            current_exchange.reset(token)

    async def _read_body(self, response: ClientResponse, attempt: _Attempt) -> None:
        """Up to the read limit; leaving the response unread is what makes aiohttp drop the connection."""
        kept, read = self._limits.body_kept, 0
        while read < self._limits.body_read:
            chunk = await response.content.readany()
            if not chunk:
                return
            read += len(chunk)
            if len(attempt.body) < kept:
                attempt.body = (attempt.body + chunk)[:kept]


def _judge(status: int | None) -> tuple[Outcome, str | None]:
    if status is not None and 200 <= status <= 299:
        return Outcome.OK, None
    return Outcome.HTTP_STATUS, f"answered {status}"


@lru_cache(maxsize=1024)
def _dialled_url(scheme: str, address: str, port: int, target: str) -> URL:
    host = f"[{address}]" if ":" in address else address
    return URL(f"{scheme}://{host}:{port}{target}", encoded=True)


def _retry_after(response: ClientResponse) -> str | None:
    value = response.headers.get("Retry-After")
    return None if value is None else value[:MAX_RETRY_AFTER]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
