"""Measures running producers: their commit rate, and the latency from a commit to the webhook's first byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from schema.errors import Unavailable
from schema.secret_box import derive_role_password
from service.bench.bench_database import MODE, BenchDatabase
from service.bench.drain import PATIENCE_S, wait_settled
from service.bench.load.payload import data_for
from service.bench.processes.bench_process import process

_WARM_UP_S: Final = 2.0
_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class ProducerResult:
    committed: int
    seconds: float
    transaction_ms: Sequence[float]
    """From before BEGIN to the confirmed COMMIT."""

    @property
    def rate(self) -> float:
        return self.committed / self.seconds


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds to the first byte at the receiver."""

    after_commit: Sequence[float]
    """From the commit's confirmation: a lower bound."""
    before_commit: Sequence[float]
    """From sending COMMIT: an upper bound."""
    committed_per_s: float


async def produce(bench: BenchDatabase, seconds: float, rate: float | None) -> ProducerResult:
    written = await _write(bench, seconds, rate)
    took = [(a - b) / _MS for a, b in zip(written["after_ns"], written["began_ns"], strict=True)]
    return ProducerResult(written["committed"], written["seconds"], took)


async def latencies(bench: BenchDatabase, seconds: float, rate: float) -> Latencies:
    """Measures latencies at a fixed rate with a running worker. The first two seconds are left out."""
    receiver, progress = bench.setup.receiver, bench.setup.progress
    await receiver.reset(track=True)
    since = await bench.now()
    progress(f"latency at {rate:g} events/s for {seconds:g} s")
    written = await _write(bench, seconds + _WARM_UP_S, rate)
    expected = written["committed"] * bench.shape.fan_out
    if not await receiver.wait_for_count(
        expected, PATIENCE_S, lambda seen: progress(f"{seen:,} of {expected:,} arrived")
    ):
        raise Unavailable(f"Some of {expected} webhooks did not arrive during the latency measurement.")
    arrived = await receiver.first_bytes()
    await wait_settled(bench, since)
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


async def _write(bench: BenchDatabase, seconds: float, rate: float | None) -> dict[str, Any]:
    async with process("writers", ("-m", "service.bench.load.bench_producers")) as writers:
        question = {
            "url": bench.url,
            "user": MODE.role,
            "password": derive_role_password(bench.database.key, MODE.role),
            "schema": MODE.schema,
            "tenants": [str(tenant) for tenant in bench.tenants],
            "data": data_for(bench.shape.body_bytes),
            "rate": rate,
            "seconds": seconds,
        }
        return await writers.ask(question, seconds + 60)
