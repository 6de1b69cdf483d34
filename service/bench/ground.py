"""What all rows stand on: the scratch server, the receiver, and how much time there is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.bench.certificate import Certificate, make_certificate
from service.bench.process import Process, process
from service.bench.receiver import HOST, Report
from service.bench.scale import Scale
from service.bench.scratch import Scratch

_ASKED_EVERY_S: Final = 0.25

Watch = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReceiverProcess:
    process: Process
    plain: int
    tls: int

    def url(self, *, tls: bool = False) -> str:
        return f"https://{HOST}:{self.tls}" if tls else f"http://{HOST}:{self.plain}"

    async def forget(self, *, track: bool = False) -> None:
        await self.process.ask({"do": "forget", "track": track})

    async def report(self) -> Report:
        return Report(**await self.process.ask({"do": "report"}))

    async def first_bytes(self) -> Mapping[str, int]:
        """When each event's first byte came, in nanoseconds of CLOCK_MONOTONIC; of several attempts the first."""
        tracked = await self.process.ask({"do": "tracked"})
        earliest: dict[str, int] = {}
        for event_id, at in zip(tracked["ids"], tracked["at"], strict=True):
            earliest.setdefault(event_id, at)
        return earliest

    async def reaches(self, count: int, patience_s: float, watch: Callable[[int], None]) -> bool:
        """Whether that many arrive, with never more than `patience_s` without a new one."""
        loop = asyncio.get_running_loop()
        seen, moved = -1, loop.time()
        while seen < count:
            here = (await self.report()).count
            if here > seen:
                seen, moved = here, loop.time()
                watch(seen)
            elif loop.time() - moved > patience_s:
                return False
            await asyncio.sleep(_ASKED_EVERY_S if seen < count else 0)
        return True


@dataclass
class Ground:
    scratch: Scratch
    receiver: ReceiverProcess
    certificate: Certificate
    scale: Scale
    watch: Watch = field(repr=False)
    """EventFacts what is going on."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Deliveries per second seen last, by shape."""


@asynccontextmanager
async def receiver_process(certificate: Certificate) -> AsyncIterator[ReceiverProcess]:
    arguments = ("-m", "service.bench.receiver", str(certificate.certificate), str(certificate.key))
    async with process("receiver", arguments) as started:
        ports: dict[str, Any] = await started.hear()
        yield ReceiverProcess(started, **ports)


@asynccontextmanager
async def ground(scratch: Scratch, scale: Scale, watch: Watch) -> AsyncIterator[Ground]:
    certificate = make_certificate(Path(scratch.directory))
    async with receiver_process(certificate) as receiver:
        yield Ground(scratch, receiver, certificate, scale, watch)
