"""Decides whether every committed event arrived, verified, at its endpoints, and nothing else did. A pure function.

A delivery counts once the receiver has answered 200. A later arrival is a duplicate, which at-least-once delivery
allows: it is counted but is not a problem. Every other deviation is a problem.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.demo.observations import Committed, Pair
from service.demo.receipts import OK, REJECTED, Receipt

MAX_EXAMPLES: Final = 10
WORKER_ENDS_WITHIN_S: Final = 25.0


@dataclass(frozen=True, slots=True)
class Audit:
    """The database's state, for both modes together."""

    without_position: Sequence[str]
    """Committed events, by id."""
    recorded_though_rolled_back: Sequence[str]
    positions_missing: int
    """Gaps in the log since the demo began."""
    deliveries: Mapping[str, int]
    """Deliveries of the demo's tenants, by status."""


@dataclass(frozen=True, slots=True)
class Evidence:
    committed: Mapping[str, Committed]
    rolled_back: Collection[str]
    receipts: Sequence[Receipt]
    audit: Audit
    worker_status: int | None
    """Its exit status after SIGTERM. None if it did not end in time."""
    abort_reason: str | None = None
    """Why the demo stopped waiting, as a sentence."""


@dataclass(frozen=True, slots=True)
class Problem:
    what: str
    """A sentence."""
    examples: tuple[str, ...] = ()
    """At most MAX_EXAMPLES."""


@dataclass(frozen=True, slots=True)
class Figures:
    committed: int
    rolled_back: int
    expected: int
    delivered: int
    verified: int
    """Delivered with the committed content.

    A request that fails a signature check does not count as delivered.
    """
    retried: int
    duplicates: int
    lost: int
    wrong: int
    unverified: int
    """Requests that the receiver rejected as not genuine."""
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    figures: Figures
    problems: Sequence[Problem]

    @property
    def passed(self) -> bool:
        return not self.problems


def judge(evidence: Evidence) -> Verdict:
    committed, receipts = evidence.committed, evidence.receipts
    rejected = [r for r in receipts if r.answer == REJECTED]
    genuine = [r for r in receipts if r.answer != REJECTED]
    expected = {(event_id, path) for event_id, event in committed.items() for path in event.recipients}
    answers = Counter((r.event_id, r.path) for r in genuine if r.answer == OK)
    lost = expected - answers.keys()
    wrong = _wrong(genuine, evidence)
    delivered = expected & answers.keys()
    latencies = sorted(_latencies(committed, genuine))
    figures = Figures(
        committed=len(committed),
        rolled_back=len(evidence.rolled_back),
        expected=len(expected),
        delivered=len(delivered),
        verified=len(delivered - wrong.keys()),
        retried=len({(r.event_id, r.path) for r in genuine if r.attempt > 1}),
        duplicates=answers.total() - len(answers),
        lost=len(lost),
        wrong=len(wrong),
        unverified=len(rejected),
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
    )
    problems = [
        *_processes(evidence),
        *_arrivals(lost, wrong, rejected),
        *_database(evidence.audit, len(expected)),
    ]
    return Verdict(figures, problems)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Returns the percentile by nearest rank, or None for no values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _latencies(committed: Mapping[str, Committed], receipts: Iterable[Receipt]) -> Iterable[float]:
    """Yields milliseconds from each timed commit to the first attempt at each endpoint, whatever its
    response.
    """
    first: dict[Pair, float] = {}
    for receipt in receipts:
        pair = (receipt.event_id, receipt.path)
        first[pair] = min(receipt.at, first.get(pair, receipt.at))
    for (event_id, _path), at in first.items():
        event = committed.get(event_id)
        if event and event.timed:
            yield max(0.0, at - event.at) * 1000


def _wrong(receipts: Iterable[Receipt], evidence: Evidence) -> dict[Pair, str]:
    """Returns the arrivals that differ from what was committed, with the reason."""
    wrong: dict[Pair, str] = {}
    bodies: dict[str, str] = {}
    for receipt in receipts:
        pair = (receipt.event_id, receipt.path)
        if reason := _mismatch(receipt, evidence):
            wrong[pair] = reason
        elif bodies.setdefault(receipt.event_id, receipt.body_digest) != receipt.body_digest:
            wrong[pair] = "its bytes differ between attempts or endpoints"
    return wrong


def _mismatch(receipt: Receipt, evidence: Evidence) -> str | None:
    if receipt.event_id in evidence.rolled_back:
        return "its transaction rolled back"
    event = evidence.committed.get(receipt.event_id)
    if event is None:
        return "it was never committed"
    if receipt.path not in event.recipients:
        return "the endpoint is not subscribed to it"
    if (receipt.event_type, receipt.data_digest) != (event.type, event.data_digest):
        return "its content differs from what was committed"
    return None


def _processes(evidence: Evidence) -> Iterable[Problem]:
    if evidence.abort_reason:
        yield Problem(evidence.abort_reason)
    if evidence.worker_status is None:
        yield Problem(f"The worker did not end within {WORKER_ENDS_WITHIN_S:.0f} s after SIGTERM.")
    elif evidence.worker_status != 0:
        yield Problem(f"The worker ended with status {evidence.worker_status} instead of 0.")


def _arrivals(
    lost: Collection[Pair], wrong: Mapping[Pair, str], rejected: Sequence[Receipt]
) -> Iterable[Problem]:
    if lost:
        yield Problem(f"{_count(lost, 'delivery', 'deliveries')} did not arrive.", _examples(lost))
    by_reason: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair, reason in wrong.items():
        by_reason[reason].append(pair)
    for reason, pairs in by_reason.items():
        yield Problem(f"{_count(pairs, 'arrival is', 'arrivals are')} wrong: {reason}.", _examples(pairs))
    if rejected:
        reasons = Counter(f"{r.reason} (at {r.path})" for r in rejected)
        yield Problem(
            f"{_count(rejected, 'request', 'requests')} did not verify.",
            tuple(f"{count} x {reason}" for reason, count in reasons.most_common(MAX_EXAMPLES)),
        )


def _database(audit: Audit, expected: int) -> Iterable[Problem]:
    if audit.without_position:
        yield Problem(
            f"{_count(audit.without_position, 'committed event has', 'committed events have')} no position in the log.",
            tuple(audit.without_position[:MAX_EXAMPLES]),
        )
    if audit.recorded_though_rolled_back:
        yield Problem(
            "Rolled-back events are in the events table.",
            tuple(audit.recorded_though_rolled_back[:MAX_EXAMPLES]),
        )
    if audit.positions_missing:
        yield Problem(f"The log has gaps: {audit.positions_missing} positions are missing.")
    if {status: count for status, count in audit.deliveries.items() if count} != {"delivered": expected}:
        found = ", ".join(f"{count} {status}" for status, count in sorted(audit.deliveries.items()))
        yield Problem(
            f"The database should have {expected} deliveries, all delivered. It has {found or 'none'}."
        )


def _count(things: Collection[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _examples(pairs: Iterable[Pair]) -> tuple[str, ...]:
    return tuple(f"{event_id} at {path}" for event_id, path in sorted(pairs)[:MAX_EXAMPLES])
