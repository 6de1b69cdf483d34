"""A receiver on real sockets, whose responses a test chooses."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiohttp import web

from tests.support.arrivals import Arrivals


@dataclass(frozen=True)
class Received:
    path: str
    headers: tuple[tuple[str, str], ...]
    """In wire order and spelling."""
    body: bytes

    @property
    def event_id(self) -> str:
        event_id: str = orjson.loads(self.body)["id"]
        return event_id

    def header(self, name: str) -> str:
        return next(value for key, value in self.headers if key.lower() == name.lower())


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    retry_after: str | None = None
    held_by: asyncio.Event | None = None
    """The response waits until this is set."""


OK = Answer()


class Receiver:
    """Calls `answer` for each request and sends the result."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: Arrivals[Received] = Arrivals()
        self.answer: Callable[[Received], Answer] = lambda _request: OK
        self.active: Counter[str] = Counter()
        self.most_active: Counter[str] = Counter()
        """Maximum of concurrent requests, by path and, under "", in total."""

    def at(self, path: str) -> list[Received]:
        return [request for request in self.requests if request.path == path]

    def event_ids(self) -> Counter[str]:
        return Counter(request.event_id for request in self.requests)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = tuple((name.decode(), value.decode()) for name, value in request.raw_headers)
        received = Received(request.path, headers, body)
        for key in ("", request.path):
            self.active[key] += 1
            self.most_active[key] = max(self.most_active[key], self.active[key])
        try:
            self.requests.add(received)
            answer = self.answer(received)
            if answer.held_by is not None:
                await answer.held_by.wait()
        finally:
            for key in ("", request.path):
                self.active[key] -= 1
        extra = {"Retry-After": answer.retry_after} if answer.retry_after else {}
        return web.Response(status=answer.status, body=answer.body, headers=extra)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
