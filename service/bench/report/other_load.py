"""Measures how much CPU other processes used during a row. They distort absolute values more than ratios."""

import os
import time
from dataclasses import dataclass
from typing import Final

from service.bench.bench_setup import BenchSetup
from service.bench.processes.proc import busy_s, cpu_s, own_cpu_s, tree_cpu_s

REPORTED_ABOVE: Final = 0.1


@dataclass(frozen=True, slots=True)
class CpuSnapshot:
    at: float
    busy_s: float
    ours_s: float

    @classmethod
    def now(cls, setup: BenchSetup) -> "CpuSnapshot":
        ours = own_cpu_s() + cpu_s(setup.receiver.process.pid) + tree_cpu_s(setup.scratch.postmaster)
        return cls(time.monotonic(), busy_s(), ours)

    def other_load_since(self, before: "CpuSnapshot") -> float:
        """Returns the share of all cores that other processes used, from 0 to 1."""
        others = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        whole = (self.at - before.at) * len(os.sched_getaffinity(0))
        return min(max(others / whole, 0.0), 1.0) if whole > 0 else 0.0
