"""Counts outcomes, verdicts and stage durations of attempts, one batch at a time.

Plain integers, because every delivery passes here: half a microsecond each, where a single `observe` of a metrics
library's histogram takes twice that, and three are needed. service/telemetry reads them as they are.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from delivery.http.attempt_contract import Outcome
from schema.deliveries.deliveries import Settlement, Verdict

BOUNDS_MS: Final = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 10e3, 15e3)
"""Upper bounds of the buckets, inclusive. Floats, because comparing with an integer takes twice as long."""


@dataclass(slots=True)
class Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    """Per bucket, not cumulative; the last bucket is above all bounds."""
    sum_ms: float = 0.0


class Tally:
    def __init__(self) -> None:
        self.outcomes = {outcome.value: 0 for outcome in Outcome}
        """Attempts by outcome, including results that came after a take-over."""
        self.verdicts = dict.fromkeys(Verdict, 0)
        """The same results by verdict, and deliveries skipped without an attempt."""
        self.stages = {stage: Histogram() for stage in ("dns", "connect", "tls", "first_byte", "total")}

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Adds one batch after it is written. A stage that did not happen is not counted."""
        outcomes, verdicts = self.outcomes, self.verdicts
        dns, connect, tls, first_byte, total = self.stages.values()
        for settlement in settlements:  # no calls in here but bisect: each would cost a tenth of the total
            verdicts[settlement.verdict] += 1
            attempt = settlement.attempt
            if attempt is None:
                continue
            outcomes[attempt.outcome] += 1
            total.counts[bisect_left(BOUNDS_MS, attempt.total_ms)] += 1
            total.sum_ms += attempt.total_ms
            if (ms := attempt.first_byte_ms) is not None:
                first_byte.counts[bisect_left(BOUNDS_MS, ms)] += 1
                first_byte.sum_ms += ms
            if (ms := attempt.dns_ms) is not None:
                dns.counts[bisect_left(BOUNDS_MS, ms)] += 1
                dns.sum_ms += ms
            if (ms := attempt.connect_ms) is not None:
                connect.counts[bisect_left(BOUNDS_MS, ms)] += 1
                connect.sum_ms += ms
            if (ms := attempt.tls_ms) is not None:
                tls.counts[bisect_left(BOUNDS_MS, ms)] += 1
                tls.sum_ms += ms
