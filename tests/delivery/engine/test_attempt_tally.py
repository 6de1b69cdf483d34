"""The tally equals a naive count."""

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.attempt_tally import BOUNDS_MS, Tally
from delivery.http.attempt_contract import Outcome
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, Settlement, Verdict

ID = UUID(int=1)
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = ClaimedDelivery(ID, ID, ID, ID, "invoice_created", MOMENT, 0, False, "{}", 1, None)

milliseconds = st.one_of(st.floats(0, 70_000), st.sampled_from(BOUNDS_MS))
attempts = st.builds(
    lambda outcome, dns, connect, tls, first_byte, total: Attempt(
        ID, MOMENT, outcome.value, None, None, b"", None, dns, connect, tls, first_byte, total
    ),
    st.sampled_from(Outcome),
    *[st.none() | milliseconds] * 4,
    milliseconds,
)
settlements = st.builds(
    lambda verdict, attempt: Settlement(CLAIM, verdict, attempt=attempt),
    st.sampled_from(Verdict),
    st.none() | attempts,
)


@given(st.lists(st.lists(settlements, max_size=20), max_size=5))
def test_batches_add_up(batches: list[list[Settlement]]) -> None:
    tally = Tally()
    for batch in batches:
        tally.add(batch)
    everything = [settlement for batch in batches for settlement in batch]
    made = [settlement.attempt for settlement in everything if settlement.attempt]
    assert +Counter(tally.verdicts) == Counter(settlement.verdict for settlement in everything)
    assert +Counter(tally.outcomes) == Counter(attempt.outcome for attempt in made)
    for stage, histogram in tally.stages.items():
        took = [ms for attempt in made if (ms := getattr(attempt, f"{stage}_ms")) is not None]
        for number, bound in enumerate(BOUNDS_MS):
            assert sum(histogram.counts[: number + 1]) == sum(ms <= bound for ms in took)
        assert sum(histogram.counts) == len(took)
        assert abs(histogram.sum_ms - sum(took)) <= 1e-6 * (1 + sum(took))


def test_every_series_starts_at_zero() -> None:
    """A series that first appears with its first failure hides that failure from rate()."""
    tally = Tally()
    assert tally.outcomes == dict.fromkeys(("ok", *(o.value for o in Outcome if o is not Outcome.OK)), 0)
    assert tally.verdicts == dict.fromkeys(Verdict, 0)
