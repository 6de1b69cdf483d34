"""The HTTP side of a worker: is it alive, is it ready, what does it count.

/healthz   200 while the process runs its loop; a loop that stands still cannot answer, and that is the answer
/readyz    200 while it takes work; 503 with the reasons why not: from the first signal to stop, while the database does
           not answer, while the session is not there that shows other workers that this one lives, and while a part
           of either mode has been failing for FAILING_AFTER_S: part, since when, and the last error
/metrics   Prometheus text; always 200, without the database's facts (duro_database_up 0) when that does not answer
"""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import asyncpg
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.worker.composition import Worker
from service.worker.listen_socket import cannot_listen, url_at
from service.worker.telemetry.exposition import Telemetry

T = TypeVar("T")
_ANSWER_WITHIN_S: Final = 5.0
_TROUBLE: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class HttpServer:
    def __init__(self, worker: Worker, telemetry: Telemetry, stopping: asyncio.Event) -> None:
        self._worker = worker
        self._telemetry = telemetry
        self._stopping = stopping
        app = web.Application(client_max_size=1024)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def bind(self, host: str, port: int) -> str:
        """Listens, and returns the URL. Raises Unavailable when the port cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise cannot_listen(host, port, error) from None
        return url_at(host, self._runner.addresses[0][1])

    async def adopt(self, sock: socket.socket) -> None:
        """Listens on a socket that somebody else has bound."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if reasons := await self._why_not_ready():
            return web.json_response({"status": "not ready", "reasons": reasons}, status=503)
        return web.json_response({"status": "ready"})

    async def _why_not_ready(self) -> list[str]:
        reasons = []
        if self._stopping.is_set():
            reasons.append("stopping")
        try:
            await _in_time(self._worker.database.core.fetchval("SELECT 1"))
        except _TROUBLE:
            reasons.append("database unavailable")
        if not self._worker.presence.session_is_open:
            reasons.append("not registered as a worker")
        return reasons + self._worker.failures.reasons()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=await self._telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


async def _in_time(answer: Coroutine[Any, Any, T]) -> T:
    """Raises TimeoutError, and at once: the driver, cancelled, may wait long for a server that is silent."""
    asking = asyncio.create_task(answer)
    asking.add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # nobody else may be there to ask
    await asyncio.wait((asking,), timeout=_ANSWER_WITHIN_S)
    if not asking.done():
        asking.cancel()
        raise TimeoutError
    return asking.result()
