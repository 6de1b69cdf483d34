"""The HTTP side of a worker: is it alive, is it ready, what does it count.

/healthz   200 while the process runs its loop
/readyz    200 while it takes work and the database answers; 503 from the first signal to stop
/metrics   Prometheus text
"""

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import asyncpg
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from schema.errors import Unavailable
from service.runtime import Worker
from service.telemetry import exposition

T = TypeVar("T")
_ANSWER_WITHIN_S: Final = 5.0
_TROUBLE: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class HttpServer:
    def __init__(self, worker: Worker, host: str, port: int, stopping: asyncio.Event) -> None:
        self._worker = worker
        self._host = host
        self._port = port
        self._stopping = stopping
        app = web.Application(client_max_size=1024)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def bind(self) -> str:
        """Listens, and returns the URL. Raises Unavailable when the port cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                reason = "is taken: end what uses it, or choose another with --port (0 takes a free one)"
            else:
                reason = f"cannot be used ({error.strerror}): choose another with --port or DURO_HOST"
            raise Unavailable(f"Port {self._port} on {self._host} {reason}.") from None
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}"

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._stopping.is_set():
            return web.json_response({"status": "stopping"}, status=503)
        try:
            await _in_time(self._worker.database.core.fetchval("SELECT 1"))
        except _TROUBLE:
            return web.json_response({"status": "database unavailable"}, status=503)
        return web.json_response({"status": "ready"})

    async def _metrics(self, _request: web.Request) -> web.Response:
        try:
            text = await _in_time(exposition(self._worker))
        except _TROUBLE:
            return web.Response(status=503, text="database unavailable\n")
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


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
