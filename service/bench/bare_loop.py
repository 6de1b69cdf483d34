"""One measurement of the bare aiohttp loop, by the same receiver and the same arithmetic as ours."""

from dataclasses import dataclass
from typing import Final

from schema.errors import Unavailable
from service.bench.drain import arrival_rate
from service.bench.ground import Ground
from service.bench.proc import cpu_s
from service.bench.process import process
from service.bench.stage import Shape

_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Posted:
    rate: float
    """Per second, between the tenth and the ninetieth percent of the arrivals."""
    client_us: float
    """CPU per request."""
    receiver_us: float
    wire_bytes: float


async def bare_loop(ground: Ground, shape: Shape, count: int) -> Posted:
    receiver = ground.receiver
    ground.watch(f"bare aiohttp loop: {count:,} requests")
    async with process(
        "bare aiohttp loop", ("-m", "service.bench.baseline"), ground.certificate.trust
    ) as loop:
        await receiver.forget()
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
            f"The bare loop's {answer['count']} requests came out as {report.count} at the receiver, "
            f"{answer['failed']} of them refused: nothing can be measured against it."
        )
    each = 1e6 / report.count
    return Posted(
        arrival_rate(report), answer["cpu_s"] * each, spent * each, report.wire_bytes / report.count
    )
