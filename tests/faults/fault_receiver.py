"""The fault suite's receiver: it verifies every request, responds by a rule, and counts.

It keeps a number per (path, event) instead of requests, so that hundreds of thousands fit in memory.
"""

import asyncio
import hmac
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_bytes
from socket import create_server, socket
from zlib import crc32

import orjson
import standardwebhooks
from aiohttp import web

from tests.faults.length import PATIENCE_S
from tests.faults.producers import EVENT_TYPE

Pair = tuple[str, str]
"""Path and event id."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    after_s: float = 0.0


ResponseRule = Callable[[str, str, int], Answer]
"""Returns the response to the nth request (from 1) for a path and an event id."""


def fails_first(path: str, event_id: str) -> bool:
    """Returns whether the first request of this delivery fails: one in twenty does."""
    return crc32(f"{path} {event_id}".encode()) % 20 == 0


def mostly_successful(path: str, event_id: str, nth: int) -> Answer:
    """Responds quickly or slowly, and fails some first requests."""
    if nth == 1 and fails_first(path, event_id):
        return Answer(500)
    return Answer(after_s=(crc32(event_id.encode()) % 8) * 0.01)


class FaultReceiver:
    def __init__(self, respond: ResponseRule = mostly_successful, tolerance_s: float = 300.0) -> None:
        self.url = ""
        self.respond = respond
        self.requests: Counter[Pair] = Counter()
        self.arrived: defaultdict[Pair, list[float]] = defaultdict(list)
        """When, on the loop's clock; only if `timed`."""
        self.timed = False
        self.stamps: set[int] = set()
        self.refused: list[str] = []
        self._secrets: dict[str, str] = {}
        self._tolerance_s = tolerance_s
        self._news = asyncio.Event()

    @property
    def total(self) -> int:
        return self.requests.total()

    def register_endpoint(self, path: str) -> str:
        """Registers an endpoint and returns its secret."""
        self._secrets[path] = f"whsec_{b64encode(token_bytes(32)).decode()}"
        return self._secrets[path]

    async def until(self, holds: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Checks the condition after each request."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"after {self.total} requests still not: {what}") from None

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        problem = self._problem(request, body)
        if problem is not None:
            self.refused.append(problem)
            return web.Response(status=400)
        if request.headers["Duro-Event-Type"] != EVENT_TYPE:
            return web.Response()  # the engine's own events, about endpoints
        pair = request.path, request.headers["webhook-id"]
        self.requests[pair] += 1
        if self.timed:
            self.arrived[pair].append(asyncio.get_running_loop().time())
        self._news.set()
        answer = self.respond(*pair, self.requests[pair])
        if answer.after_s:
            await asyncio.sleep(answer.after_s)
        return web.Response(status=answer.status)

    def _problem(self, request: web.Request, body: bytes) -> str | None:
        """Verifies with the public package and by hand. Returns None for a valid request."""
        secret = self._secrets.get(request.path)
        if secret is None:
            return f"there is no endpoint at {request.path}"
        event_id, stamp = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        self.stamps.add(stamp)
        when = datetime.fromtimestamp(stamp, UTC)
        standard = standardwebhooks.Webhook(secret).sign(event_id, when, body.decode())
        if not hmac.compare_digest(standard, request.headers["webhook-signature"]):
            return f"{event_id}: webhook-signature is wrong"
        expected = hmac.new(secret.encode(), f"{stamp}.".encode() + body, sha256).hexdigest()
        if request.headers["Duro-Signature"] != f"t={stamp},v1={expected}":
            return f"{event_id}: Duro-Signature is wrong"
        if abs(time.time() - stamp) > self._tolerance_s:
            return f"{event_id}: the timestamp {stamp} is outside the tolerance"
        if orjson.loads(body)["id"] != event_id or request.headers["Duro-Event-Id"] != event_id:
            return f"{event_id}: the body has another event id"
        return None


@asynccontextmanager
async def fault_receiver(
    respond: ResponseRule = mostly_successful, *, tolerance_s: float = 300.0, listens: socket | None = None
) -> AsyncIterator[FaultReceiver]:
    """Listens on loopback, unless `listens` is another socket."""
    this = FaultReceiver(respond, tolerance_s)
    app = web.Application()
    app.router.add_post("/{tail:.*}", this.receive)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    setup = web.SockSite(runner, listens or create_server(("127.0.0.1", 0)), backlog=1024)
    await setup.start()
    host, port = runner.addresses[0][:2]
    this.url = f"http://{host}:{port}"
    try:
        yield this
    finally:
        await runner.cleanup()
