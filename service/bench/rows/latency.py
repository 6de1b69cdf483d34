"""Measures the latency from commit to the first byte at the receiver, at fixed rates."""

from typing import Final

from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.load.producing import latencies
from service.bench.report.measurement import AtMost, Measurement
from service.bench.report.numbers import percentile

AIMED_AT: Final = 200
P50: Final = AtMost(5, "ms")
P99: Final = AtMost(20, "ms")


async def latency(setup: BenchSetup, row: str, rate: int) -> list[Measurement]:
    async with bench_database(setup, Shape()) as bench, bench.worker():
        seen = await latencies(bench, setup.scale.latency_s, rate)
    after, before = seen.after_commit, seen.before_commit
    figures = {
        "p50_ms": percentile(after, 50),
        "p99_ms": percentile(after, 99),
        "from_sending_commit_p50_ms": percentile(before, 50),
        "from_sending_commit_p99_ms": percentile(before, 99),
        "most_ms": max(after),
        "committed_per_s": seen.committed_per_s,
        "webhooks": len(after),
    }
    return [
        Measurement(
            f"{row}-p{percent}",
            f"commit confirmed to first byte at the receiver, p{percent}, {rate} events/s",
            "",
            figures[f"p{percent}_ms"],
            aim if rate == AIMED_AT else None,
            "ms",
            figures,
            f"{figures[f'p{percent}_ms']:.1f} ms; from sending COMMIT {figures[f'from_sending_commit_p{percent}_ms']:.1f} ms",
        )
        for percent, aim in ((50, P50), (99, P99))
    ]
