"""The HTTP server of a worker: liveness, readiness and metrics.

/healthz   200 while the event loop runs; a blocked loop cannot answer
/readyz    200 while the worker does its work; otherwise 503 with the reasons: stopping (from the first signal on), database
           unavailable, not registered (the session that shows other workers that this one is alive is missing), or a part
           that has been failing for FAILING_AFTER_S, with since when and the last error
/metrics   Prometheus text; always 200, without the database's metrics (duro_database_up 0) when the database does not answer
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
_DATABASE_ERRORS: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class HealthServer:
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
        """Listens and returns the URL. Raises Unavailable when the port cannot be used."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise cannot_listen(host, port, error) from None
        return url_at(host, self._runner.addresses[0][1])

    async def listen_on(self, sock: socket.socket) -> None:
        """Listens on a socket that the parent process has bound."""
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
            await _with_timeout(self._worker.database.core.fetchval("SELECT 1"))
        except _DATABASE_ERRORS:
            reasons.append("database unavailable")
        if not self._worker.presence.session_is_open:
            reasons.append("not registered as a worker")
        return reasons + self._worker.failures.reasons()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=await self._telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


async def _with_timeout(answer: Coroutine[Any, Any, T]) -> T:
    """Raises TimeoutError without waiting for the driver, whose cancellation may take long with a silent server."""
    query = asyncio.create_task(answer)
    query.add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # retrieves the exception, or asyncio logs it
    await asyncio.wait((query,), timeout=_ANSWER_WITHIN_S)
    if not query.done():
        query.cancel()
        raise TimeoutError
    return query.result()
