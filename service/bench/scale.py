"""How long measurements last. Counts follow from the measured speed, up to a maximum."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    quick: bool
    seconds: float
    """Length of one throughput measurement."""
    rounds: int
    """How many times the main row measures both sides."""
    pairs: int
    """How many times the other rows do."""
    least: int
    """Minimum deliveries of a measurement, and of the short first one that finds the speed."""
    most_deliveries: int
    latency_s: float
    history: int
    memory_deliveries: int
    memory_within_s: float
    pending: int
    """Pending deliveries to hanging endpoints."""
    pages_of: int
    """Deliveries in the paged list."""
    log_events: int
    """Events in the log that consumers read."""

    def count(self, per_second: float) -> int:
        return max(min(int(per_second * self.seconds), self.most_deliveries), self.least) // 100 * 100


FULL: Final = Scale(
    quick=False,
    seconds=6,
    rounds=3,
    pairs=2,
    least=2_000,
    most_deliveries=100_000,
    latency_s=15,
    history=10_000_000,
    memory_deliveries=1_000_000,
    memory_within_s=240,
    pending=100_000,
    pages_of=200_000,
    log_events=1_000_000,
)
QUICK: Final = Scale(
    quick=True,
    seconds=4,
    rounds=2,
    pairs=1,
    least=2_000,
    most_deliveries=50_000,
    latency_s=5,
    history=200_000,
    memory_deliveries=50_000,
    memory_within_s=30,
    pending=20_000,
    pages_of=50_000,
    log_events=200_000,
)
