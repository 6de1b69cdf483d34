"""Who else was at work on this machine meanwhile? Ratios bear a noisy neighbour, absolute figures do not."""

import os
import time
from dataclasses import dataclass
from typing import Final

from service.bench.ground import Ground
from service.bench.proc import busy_s, cpu_s, own_cpu_s, tree_cpu_s

WORTH_TELLING: Final = 0.1


@dataclass(frozen=True, slots=True)
class Moment:
    at: float
    busy_s: float
    ours_s: float

    @classmethod
    def now(cls, ground: Ground) -> "Moment":
        ours = own_cpu_s() + cpu_s(ground.receiver.process.pid) + tree_cpu_s(ground.scratch.postmaster)
        return cls(time.monotonic(), busy_s(), ours)

    def others_since(self, before: "Moment") -> float:
        """The share of all cores that others took, from 0 to 1."""
        others = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        whole = (self.at - before.at) * len(os.sched_getaffinity(0))
        return min(max(others / whole, 0.0), 1.0) if whole > 0 else 0.0
