"""The tenants' server, in a separate process: verifies each request, fails some on purpose, and reports all of them.

stdout ► {"port": …}            once it listens
stdin  ◄ {"hold_s": …, "endpoints": {path: {"secret": …, "headers": {…}}}}    one line, before any webhook
stdout ► one Receipt a line
stdin  ◄ end                    stops it, so it ends even if the demo is killed
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson
import uvloop
from aiohttp import web

from service.child_process import stdin_reader
from service.demo.receipts import OK, REJECTED, Receipt, data_digest
from service.demo.receiver_faults import Fault, fault_for
from service.demo.webhook_verification import Expectation, InvalidWebhook, verify

HOST: Final = "127.0.0.1"
_LARGEST_BODY: Final = 512 * 1024
_REPORT_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ReceiverScript:
    """The demo's instructions to the receiver."""

    hold_s: float
    """Duration of a slow response. It exceeds the attempt timeout."""
    endpoints: Mapping[str, Expectation]

    def line(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, line: bytes) -> "ReceiverScript":
        script = orjson.loads(line)
        return cls(
            script["hold_s"], {path: Expectation(**known) for path, known in script["endpoints"].items()}
        )


class Receiver:
    def __init__(self) -> None:
        self._script = ReceiverScript(0, {})
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._unreported: list[bytes] = []

    def set_script(self, script: ReceiverScript) -> None:
        self._script = script

    def take_report(self) -> bytes:
        report, self._unreported = b"".join(self._unreported), []
        return report

    async def receive(self, request: web.Request) -> web.Response:
        at = time.monotonic()
        expected = self._script.endpoints.get(request.path)
        if expected is None:
            return web.Response(status=404)
        body = await request.read()
        try:
            content = verify(request.headers, body, expected, time.time())
        except InvalidWebhook as error:
            self._unreported.append(Receipt(request.path, at, REJECTED, reason=str(error)).line())
            return web.Response(status=401, text=f"{error}\n")
        fault = self._record(request.path, at, body, content)
        return await self._answer(request, fault)

    def _record(self, path: str, at: float, body: bytes, content: Mapping[str, Any]) -> Fault | None:
        event_id = content["id"]
        self._attempts[event_id, path] += 1
        attempt = self._attempts[event_id, path]
        fault = fault_for(event_id, path, attempt)
        receipt = Receipt(
            path,
            at,
            fault.value if fault else OK,
            event_id,
            content["type"],
            attempt,
            sha256(body).hexdigest(),
            data_digest(content["data"]),
        )
        self._unreported.append(receipt.line())
        return fault

    async def _answer(self, request: web.Request, fault: Fault | None) -> web.Response:
        match fault:
            case Fault.SERVER_ERROR:
                return web.Response(status=500)
            case Fault.RATE_LIMITED:
                return web.Response(status=429, headers={"Retry-After": "1"})
            case Fault.SLOW:
                await asyncio.sleep(self._script.hold_s)
                return web.Response(status=503)
            case Fault.CLOSED:
                if request.transport:
                    request.transport.abort()
        return web.Response(status=200)


async def _serve() -> None:
    receiver = Receiver()
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    _write(orjson.dumps({"port": runner.addresses[0][1]}) + b"\n")

    commands = await stdin_reader()
    reporting = asyncio.create_task(_report(receiver))
    while line := await commands.readline():
        receiver.set_script(ReceiverScript.read(line))
    await runner.cleanup()
    reporting.cancel()
    _write(receiver.take_report())


async def _report(receiver: Receiver) -> None:
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        if report := receiver.take_report():
            _write(report)


def _write(report: bytes) -> None:
    sys.stdout.buffer.write(report)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
