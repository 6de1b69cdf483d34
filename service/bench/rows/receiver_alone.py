"""How fast the receiver is when nothing of ours is before it."""

from service.bench.finding import Finding
from service.bench.ground import Ground
from service.bench.payload import SMALL
from service.bench.process import process


async def receiver_alone(ground: Ground, row: str) -> list[Finding]:
    ground.watch("receiver alone")
    await ground.receiver.forget()
    async with process("bytes client", ("-m", "service.bench.bytes_client")) as client:
        question = {
            "port": ground.receiver.plain,
            "body_bytes": SMALL,
            "seconds": ground.scale.seconds / 2,
        }
        answer = await client.ask(question)
    rate = answer["count"] / answer["seconds"]
    return [
        Finding(
            row,
            "requests/s at the receiver from a bare bytes-level client",
            "",
            rate,
            unit="/s",
            figures={"per_s": rate, "client_us": answer["cpu_s"] / answer["count"] * 1e6},
            shown=f"{rate:,.0f}/s",
        )
    ]
