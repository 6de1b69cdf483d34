"""A local receiver for development: it receives webhooks, verifies them and can forward them.

    POST ─► body, at most 1 MiB ─► signatures ──► invalid: 400, not forwarded
                                    │ valid, or no secret given
                                    ├─► --fail-first ──► 503
                                    ├─► forward to a local URL ──► its response
                                    └─► the status of --status, by default 200

It listens on 127.0.0.1 only. It stores nothing except a bounded count of attempts per event.
"""

import asyncio
import errno
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, web
from yarl import URL

from schema.errors import Unavailable
from service.receiver.webhook_check import Check, check_webhook

HOST: Final = "127.0.0.1"
MOST_BYTES: Final = 1024 * 1024
FORWARD_WITHIN_S: Final = 14.0  # shorter than the sender's attempt timeout, so that it gets a response
_READ_WITHIN_S: Final = 15.0
_MOST_EVENTS: Final = 10_000
_MOST_ANSWER: Final = 64 * 1024
_NOT_FORWARDED: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Received:
    """One attempt and its response."""

    id: str
    type: str
    timestamp: str
    attempt: int
    """Number of attempts of this event so far, including this one."""
    check: Check | None
    """None if no secret was given."""
    status: int
    note: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Behaviour:
    status: int = 200
    fail_first: int = 0
    """Number of first attempts of each event that get 503."""
    forward_to: str | None = None


class Receiver:
    def __init__(
        self,
        secrets: Sequence[str],
        header_prefix: str,
        behaviour: Behaviour,
        received: Callable[[Received], None],
        clock: Callable[[], float],
    ) -> None:
        self._secrets = secrets
        self._prefix = header_prefix
        self._behaviour = behaviour
        self._received = received
        self._clock = clock
        self._attempts = AttemptCounts(_MOST_EVENTS)
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_post("/{path:.*}", self._receive)
        app.cleanup_ctx.append(self._client)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def listen(self, port: int) -> str:
        """Returns the URL. Raises Unavailable if the port cannot be used."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as error:
            await self._runner.cleanup()
            in_use = error.errno == errno.EADDRINUSE
            reason = "is in use" if in_use else f"cannot be used ({error.strerror})"
            raise Unavailable(
                f"Port {port} on {HOST} {reason}. Choose another with --port (0 for any free port)."
            ) from None
        return f"http://{HOST}:{self._runner.addresses[0][1]}/"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _client(self, _app: web.Application) -> AsyncIterator[None]:
        self._session = ClientSession(
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=FORWARD_WITHIN_S),
            auto_decompress=False,
        )
        yield
        await self._session.close()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await _body(request)
        check = self._check(request.headers, body)
        event_id = request.headers.get("webhook-id", "")
        attempt = self._attempts.count(event_id)
        response, note = await self._answer(request, body, check, attempt)
        self._received(
            Received(
                event_id,
                request.headers.get(f"{self._prefix}-Event-Type", ""),
                request.headers.get("webhook-timestamp", ""),
                attempt,
                check,
                response.status,
                note,
                body,
            )
        )
        return response

    def _check(self, headers: Mapping[str, str], body: bytes) -> Check | None:
        if not self._secrets:
            return None
        return check_webhook(headers, body, self._secrets, self._clock(), prefix=self._prefix, both=True)

    async def _answer(
        self, request: web.Request, body: bytes, check: Check | None, attempt: int
    ) -> tuple[web.Response, str | None]:
        if check is not None and not check.valid:
            return web.Response(status=400, text="Invalid signature.\n"), "rejected"
        if attempt <= self._behaviour.fail_first:
            return web.Response(status=503, text="failing on request\n"), "failed on request"
        if self._behaviour.forward_to is None:
            return web.Response(status=self._behaviour.status), None
        return await self._forward(self._behaviour.forward_to, request, body)

    async def _forward(self, to: str, request: web.Request, body: bytes) -> tuple[web.Response, str]:
        headers = [
            (name, value) for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED
        ]
        try:
            async with self._session.post(
                URL(to), data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.content.read(_MOST_ANSWER)
                passed_on = {
                    name: answer.headers[name]
                    for name in ("Content-Type", "Retry-After")
                    if name in answer.headers
                }
                return web.Response(status=answer.status, body=text, headers=passed_on), "forwarded"
        except (ClientError, TimeoutError) as error:
            reason = str(error) or "timed out waiting for a response"
            return web.Response(status=502, text="Forwarding failed.\n"), f"not forwarded: {reason}"


async def _body(request: web.Request) -> bytes:
    """Reads the body. Raises the HTTP errors 408 and 413."""
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


class AttemptCounts:
    """Counts the attempts of each event. The least recently seen event is evicted first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: OrderedDict[str, int] = OrderedDict()

    def count(self, event_id: str) -> int:
        self._counts[event_id] = self._counts.pop(event_id, 0) + 1
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return self._counts[event_id]
