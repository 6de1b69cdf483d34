"""The setup that all rows share: the scratch server, the receiver and the scale."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.bench.load.bench_receiver import HOST, Report
from service.bench.processes.bench_process import Process, process
from service.bench.processes.certificate import Certificate, make_certificate
from service.bench.processes.scratch_server import ScratchServer
from service.bench.scale import Scale

_ASKED_EVERY_S: Final = 0.25

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReceiverProcess:
    process: Process
    plain: int
    tls: int

    def url(self, *, tls: bool = False) -> str:
        return f"https://{HOST}:{self.tls}" if tls else f"http://{HOST}:{self.plain}"

    async def reset(self, *, track: bool = False) -> None:
        await self.process.ask({"do": "reset", "track": track})

    async def report(self) -> Report:
        return Report(**await self.process.ask({"do": "report"}))

    async def first_bytes(self) -> Mapping[str, int]:
        """Returns the arrival of each event's first byte at its first attempt, in ns of CLOCK_MONOTONIC."""
        tracked = await self.process.ask({"do": "tracked"})
        earliest: dict[str, int] = {}
        for event_id, at in zip(tracked["ids"], tracked["at"], strict=True):
            earliest.setdefault(event_id, at)
        return earliest

    async def wait_for_count(self, count: int, patience_s: float, progress: Callable[[int], None]) -> bool:
        """Waits for that many requests. Returns False after `patience_s` without a new one."""
        loop = asyncio.get_running_loop()
        seen, moved = -1, loop.time()
        while seen < count:
            arrived = (await self.report()).count
            if arrived > seen:
                seen, moved = arrived, loop.time()
                progress(seen)
            elif loop.time() - moved > patience_s:
                return False
            await asyncio.sleep(_ASKED_EVERY_S if seen < count else 0)
        return True


@dataclass
class BenchSetup:
    scratch: ScratchServer
    receiver: ReceiverProcess
    certificate: Certificate
    scale: Scale
    progress: Progress = field(repr=False)
    """Called with a line that describes the current step."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Last measured deliveries per second, by shape."""


@asynccontextmanager
async def receiver_process(certificate: Certificate) -> AsyncIterator[ReceiverProcess]:
    arguments = (
        "-m",
        "service.bench.load.bench_receiver",
        str(certificate.certificate),
        str(certificate.key),
    )
    async with process("receiver", arguments) as started:
        ports: dict[str, Any] = await started.read()
        yield ReceiverProcess(started, **ports)


@asynccontextmanager
async def bench_setup(scratch: ScratchServer, scale: Scale, progress: Progress) -> AsyncIterator[BenchSetup]:
    certificate = make_certificate(Path(scratch.directory))
    async with receiver_process(certificate) as receiver:
        yield BenchSetup(scratch, receiver, certificate, scale, progress)
