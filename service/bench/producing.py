"""Measurements with live producers: how fast they commit, and how soon after it a webhook's first byte arrives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from schema.errors import Unavailable
from schema.secret_box import derive_role_password
from service.bench.drain import PATIENCE_S, settled
from service.bench.payload import data_for
from service.bench.process import process
from service.bench.stage import MODE, Stage

_WARM_UP_S: Final = 2.0
_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Produced:
    committed: int
    seconds: float
    transaction_ms: Sequence[float]
    """From before BEGIN to the confirmed COMMIT."""

    @property
    def rate(self) -> float:
        return self.committed / self.seconds


@dataclass(frozen=True, slots=True)
class Latencies:
    """To the first byte at the receiver, in milliseconds."""

    after_commit: Sequence[float]
    """From the moment the commit was confirmed."""
    before_commit: Sequence[float]
    """From the moment it was sent: longer than the truth, as the other is shorter."""
    committed_per_s: float


async def produce(stage: Stage, seconds: float, rate: float | None) -> Produced:
    written = await _write(stage, seconds, rate)
    took = [(a - b) / _MS for a, b in zip(written["after_ns"], written["began_ns"], strict=True)]
    return Produced(written["committed"], written["seconds"], took)


async def latencies(stage: Stage, seconds: float, rate: float) -> Latencies:
    """At a fixed rate, with a worker already at work; what the first two seconds bring is left out."""
    receiver, watch = stage.ground.receiver, stage.ground.watch
    await receiver.forget(track=True)
    since = await stage.now()
    watch(f"latency at {rate:g} events/s for {seconds:g} s")
    written = await _write(stage, seconds + _WARM_UP_S, rate)
    expected = written["committed"] * stage.shape.fan_out
    if not await receiver.reaches(
        expected, PATIENCE_S, lambda seen: watch(f"{seen:,} of {expected:,} arrived")
    ):
        raise Unavailable(f"Not all of {expected} webhooks arrived while latency was measured.")
    arrived = await receiver.first_bytes()
    await settled(stage, since)
    warm_at = written["began_ns"][0] + _WARM_UP_S * 1e9
    rows = [
        (arrived[id_], before, after)
        for id_, before, after in zip(written["ids"], written["before_ns"], written["after_ns"], strict=True)
        if after >= warm_at
    ]
    return Latencies(
        [(at - after) / _MS for at, _, after in rows],
        [(at - before) / _MS for at, before, _ in rows],
        written["committed"] / written["seconds"],
    )


async def _write(stage: Stage, seconds: float, rate: float | None) -> dict[str, Any]:
    async with process("writers", ("-m", "service.bench.writers")) as writers:
        question = {
            "url": stage.url,
            "user": MODE.role,
            "password": derive_role_password(stage.database.key, MODE.role),
            "schema": MODE.schema,
            "tenants": [str(tenant) for tenant in stage.tenants],
            "data": data_for(stage.shape.body_bytes),
            "rate": rate,
            "seconds": seconds,
        }
        return await writers.ask(question, seconds + 60)
