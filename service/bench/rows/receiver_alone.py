"""Measures the receiver alone, without duro."""

from service.bench.bench_setup import BenchSetup
from service.bench.load.payload import SMALL
from service.bench.processes.bench_process import process
from service.bench.report.measurement import Measurement


async def receiver_alone(setup: BenchSetup, row: str) -> list[Measurement]:
    setup.progress("receiver alone")
    await setup.receiver.reset()
    async with process("bytes client", ("-m", "service.bench.load.bytes_client")) as client:
        question = {
            "port": setup.receiver.plain,
            "body_bytes": SMALL,
            "seconds": setup.scale.seconds / 2,
        }
        answer = await client.ask(question)
    rate = answer["count"] / answer["seconds"]
    return [
        Measurement(
            row,
            "requests/s at the receiver from a bare bytes-level client",
            "",
            rate,
            unit="/s",
            figures={"per_s": rate, "client_us": answer["cpu_s"] / answer["count"] * 1e6},
            summary=f"{rate:,.0f}/s",
        )
    ]
