"""The receiving side of the fault suite: verifies every request, answers as its temper says, and counts.

It keeps a number for each (path, event) and no request, so that hundreds of thousands fit.
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


Temper = Callable[[str, str, int], Answer]
"""The answer to the nth request (from 1) for a path and an event id."""


def troubled(path: str, event_id: str) -> bool:
    """One delivery in twenty is refused at its first request."""
    return crc32(f"{path} {event_id}".encode()) % 20 == 0


def human(path: str, event_id: str, nth: int) -> Answer:
    """Mostly quick, sometimes slow, and now and then out of order for a moment."""
    if nth == 1 and troubled(path, event_id):
        return Answer(500)
    return Answer(after_s=(crc32(event_id.encode()) % 8) * 0.01)


class Merchant:
    def __init__(self, temper: Temper = human, tolerance_s: float = 300.0) -> None:
        self.url = ""
        self.temper = temper
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

    def opens(self, path: str) -> str:
        """The secret of a new endpoint."""
        self._secrets[path] = f"whsec_{b64encode(token_bytes(32)).decode()}"
        return self._secrets[path]

    async def until(self, holds: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Looks whenever a request has arrived."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self.total} requests, and not: {what}") from None

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
        answer = self.temper(*pair, self.requests[pair])
        if answer.after_s:
            await asyncio.sleep(answer.after_s)
        return web.Response(status=answer.status)

    def _problem(self, request: web.Request, body: bytes) -> str | None:
        """With the public package and by hand, from what the endpoint's owner knows. None when all is well."""
        secret = self._secrets.get(request.path)
        if secret is None:
            return f"nobody lives at {request.path}"
        event_id, stamp = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        self.stamps.add(stamp)
        when = datetime.fromtimestamp(stamp, UTC)
        standard = standardwebhooks.Webhook(secret).sign(event_id, when, body.decode())
        if not hmac.compare_digest(standard, request.headers["webhook-signature"]):
            return f"{event_id}: webhook-signature is wrong"
        ours = hmac.new(secret.encode(), f"{stamp}.".encode() + body, sha256).hexdigest()
        if request.headers["Duro-Signature"] != f"t={stamp},v1={ours}":
            return f"{event_id}: Duro-Signature is wrong"
        if abs(time.time() - stamp) > self._tolerance_s:
            return f"{event_id}: signed at {stamp}, which is not now"
        if orjson.loads(body)["id"] != event_id or request.headers["Duro-Event-Id"] != event_id:
            return f"{event_id}: another event's body"
        return None


@asynccontextmanager
async def merchant(
    temper: Temper = human, *, tolerance_s: float = 300.0, listens: socket | None = None
) -> AsyncIterator[Merchant]:
    """On loopback, unless `listens` is a socket elsewhere."""
    this = Merchant(temper, tolerance_s)
    app = web.Application()
    app.router.add_post("/{tail:.*}", this.receive)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.SockSite(runner, listens or create_server(("127.0.0.1", 0)), backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    this.url = f"http://{host}:{port}"
    try:
        yield this
    finally:
        await runner.cleanup()
