"""Starts the demo's two processes: the receiver, and a worker by its normal command."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import orjson

from schema.durations import format_duration
from schema.errors import Unavailable
from service.child_process import ChildProcess, child_process
from service.database_access import DatabaseAccess
from service.demo.demo_receiver import HOST, ReceiverScript
from service.demo.demo_tenants import EGRESS_ALLOW, DemoTenant
from service.demo.receipts import Receipt
from service.demo.webhook_verification import Expectation

ATTEMPT_TIMEOUT: Final = timedelta(seconds=2)
RETRY_SCHEDULE: Final = "200ms,500ms,1s,2s,2s,4s,4s,8s,8s,16s"
_RECEIVER_STARTS_WITHIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReceiverProcess:
    url: str
    process: ChildProcess

    async def expect(self, demo_tenants: Sequence[DemoTenant]) -> None:
        known = {e.path: Expectation(e.secret, e.headers) for m in demo_tenants for e in m.endpoints}
        hold_s = ATTEMPT_TIMEOUT.total_seconds() + 0.5
        await self.process.write(ReceiverScript(hold_s, known).line())


@asynccontextmanager
async def receiver_process(on_receipt: Callable[[Receipt], None]) -> AsyncIterator[ReceiverProcess]:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_line(line: bytes) -> None:
        if listening.done():
            on_receipt(Receipt.read(line))
        else:
            listening.set_result(orjson.loads(line)["port"])

    async with child_process("receiver", ("-m", "service.demo.demo_receiver"), on_line=on_line) as process:
        await asyncio.wait(
            [listening, process.ended], timeout=_RECEIVER_STARTS_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not listening.done():
            raise Unavailable(f"The demo's receiver did not start: {' '.join(process.log) or 'no output'}")
        yield ReceiverProcess(f"http://{HOST}:{listening.result()}", process)


@asynccontextmanager
async def worker_process(base: DatabaseAccess) -> AsyncIterator[ChildProcess]:
    environment = {
        "DURO_DATABASE_URL": base.url,
        "DURO_SECRET_KEY": b64encode(base.key).decode(),
        "DURO_EGRESS_ALLOW": EGRESS_ALLOW,
        "DURO_RETRY_SCHEDULE": RETRY_SCHEDULE,
        "DURO_ATTEMPT_TIMEOUT": format_duration(ATTEMPT_TIMEOUT),
    }
    arguments = ("-m", "service.cli", "work", "--until-stdin-closes")
    async with child_process("worker", arguments, environment, lambda _line: None) as process:
        yield process
