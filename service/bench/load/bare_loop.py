"""Measures the bare aiohttp loop with the same receiver and the same arithmetic as duro."""

from dataclasses import dataclass
from typing import Final

from schema.errors import Unavailable
from service.bench.bench_database import Shape
from service.bench.bench_setup import BenchSetup
from service.bench.drain import arrival_rate
from service.bench.processes.bench_process import process
from service.bench.processes.proc import cpu_s

_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class BareLoopResult:
    rate: float
    """Per second, between the tenth and the ninetieth percent of the arrivals."""
    client_us: float
    """CPU per request."""
    receiver_us: float
    wire_bytes: float


async def bare_loop(setup: BenchSetup, shape: Shape, count: int) -> BareLoopResult:
    receiver = setup.receiver
    setup.progress(f"bare aiohttp loop: {count:,} requests")
    async with process(
        "bare aiohttp loop", ("-m", "service.bench.load.bare_loop_client"), setup.certificate.trust
    ) as loop:
        await receiver.reset()
        before = cpu_s(receiver.process.pid)
        answer = await loop.ask(
            {
                "url": receiver.url(tls=shape.tls),
                "body_bytes": shape.body_bytes,
                "count": count,
                "paths": shape.tenants * shape.fan_out,
                "within_s": _WITHIN_S,
            },
            _WITHIN_S + 30,
        )
        spent = cpu_s(receiver.process.pid) - before
        report = await receiver.report()
    if answer["failed"] or report.count != answer["count"]:
        raise Unavailable(
            f"The bare loop sent {answer['count']} requests; the receiver counted {report.count} and rejected "
            f"{answer['failed']}. Without a correct baseline nothing can be compared: run the row again."
        )
    each = 1e6 / report.count
    return BareLoopResult(
        arrival_rate(report), answer["cpu_s"] * each, spent * each, report.wire_bytes / report.count
    )
