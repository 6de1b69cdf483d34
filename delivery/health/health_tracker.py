"""Tracks the health of endpoints in this worker, and decides which changes are written to the database.

    result ──observe()──► breaker, once per result      batch ──notes()──► transaction ──written()──► in the database
                              │                              ▲                 │ failed
                              └───── its change, if any ─────┴──── retry ◄─────┘

Written are each failure, the first success after a failure (of any worker), each change of a breaker, and otherwise one
success per minute: not every delivery updates the row of a healthy endpoint. Notes are built again for each try of a
batch, from the state at that time. A result changes the breaker once, when it arrives, however often its batch is tried.

Memory is bounded: the endpoint that was not updated for longest is dropped. Its open breaker is in the database, where
claims and fan-out see it, and comes back through adopt().
"""

import random as chance
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from delivery.health.breaker import Breaker, Outcome, State
from schema.deliveries.deliveries import Attempt, ClaimedDelivery, Settlement
from schema.deliveries.endpoint_health import BreakerChange, HealthNote

_SUCCESS_EVERY: Final = timedelta(minutes=1)
_MAX_KNOWN: Final = 10_000
_OUTCOMES: Final = {"ok": Outcome.OK, "timeout": Outcome.HUNG}  # any other outcome is a failure
_NEW: Final = Breaker()


@dataclass(slots=True)
class _Known:
    breaker: Breaker = _NEW
    unwritten: int = 0
    """The opening whose start or end is not in the database yet; 0: none."""
    in_database: int = 0
    """The opening that the database had at the last write or read; 0: the breaker was closed."""
    changed_at: float = float("-inf")
    """When results last changed the breaker, or that change was written: an earlier read has not seen it."""
    success_written_at: datetime | None = None


@dataclass(slots=True)
class _Gathered:
    """The results of one endpoint in a batch."""

    tenant_id: UUID
    succeeded: bool = False
    failures: int = 0
    error: str | None = None
    recovers: bool = False
    """It succeeded while the database had it as failing."""


class HealthTracker:
    def __init__(
        self,
        now: Callable[[], datetime],
        random: Callable[[], float] = chance.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is used only for the time since the last written success. Breakers use `monotonic`, because clocks are set."""
        self._now = now
        self._random = random
        self.monotonic = monotonic
        self._known: OrderedDict[UUID, _Known] = OrderedDict()

    # Breakers

    def closed(self, endpoint_id: UUID) -> bool:
        """Returns False while the breaker is open or half-open, as far as known here."""
        known = self._known.get(endpoint_id)
        return known is None or known.breaker.closed

    def open(self, endpoint_id: UUID) -> bool:
        """Returns True while no attempt may be made, as far as known here, even if that is not in the database yet."""
        known = self._known.get(endpoint_id)
        return known is not None and known.breaker.at(self.monotonic()).state is State.OPEN

    def observe(self, settlement: Settlement) -> None:
        """Updates the breaker. Call it once per result, when it arrives."""
        endpoint_id, attempt = settlement.claim.endpoint_id, settlement.attempt
        if attempt is None:
            self.forget(
                endpoint_id
            )  # skipped: the endpoint is disabled, and its health is reset when it is enabled
            return
        known = self._known.get(endpoint_id)
        if attempt.outcome == "ok" and (known is None or known.breaker.has_no_failures):
            return
        known = self._touch(endpoint_id)
        before, now = known.breaker, self.monotonic()
        began = now - attempt.total_ms / 1000
        outcome = _OUTCOMES.get(attempt.outcome, Outcome.FAILED)
        known.breaker = before.after(outcome, began, now, self._random())
        if known.breaker.openings != before.openings:
            known.unwritten = known.breaker.openings or before.openings
            known.changed_at = now

    def adopt(self, endpoint_id: UUID, openings: int, looked_at: float) -> bool:
        """Adopts the breaker's state in the database: half-open after that many openings, or closed if none.

        Another worker wrote it, or an earlier run of this one. It was read at `looked_at` (by `monotonic`) or later. A
        change here that is not written yet, or was written since, takes precedence.

        Returns True if the breaker becomes half-open or closed here: either way the endpoint starts slowly.
        """
        known = self._known.get(endpoint_id)
        if known is None and not openings:
            return False
        known = known or self._touch(endpoint_id)
        if known.unwritten or looked_at < known.changed_at:
            return False
        before = known.breaker
        known.in_database = openings
        known.breaker = before.adopted(openings, self.monotonic())
        return known.breaker is not before

    def forget(self, endpoint_id: UUID) -> None:
        self._known.pop(endpoint_id, None)

    def states(self) -> Counter[State]:
        """Counts the endpoints known here that are not healthy, by state."""
        now = self.monotonic()
        counts = Counter(known.breaker.at(now).state for known in self._known.values())
        del counts[State.HEALTHY]
        return counts

    # Notes

    def notes(
        self, settlements: Iterable[Settlement], already_counted: Collection[UUID] = ()
    ) -> list[HealthNote]:
        """Returns one note per endpoint that needs one, from a batch in the order of its results. `already_counted`:
        attempts that an earlier try of the batch committed although it seemed to fail."""
        by_endpoint: dict[UUID, _Gathered] = {}
        for settlement in settlements:
            claim, attempt = settlement.claim, settlement.attempt
            if attempt is None:
                continue
            gathered = by_endpoint.get(claim.endpoint_id)
            if gathered is None:
                gathered = by_endpoint[claim.endpoint_id] = _Gathered(claim.tenant_id)
            if not already_counted or attempt.id not in already_counted:
                _gather(gathered, claim, attempt)
        now = self._now()
        notes = [
            (self._note(endpoint_id, gathered), gathered) for endpoint_id, gathered in by_endpoint.items()
        ]
        return [note for note, gathered in notes if gathered.recovers or self._is_news(note, now)]

    def written(self, notes: Sequence[HealthNote]) -> None:
        now = self._now()
        for note in notes:
            known = self._touch(note.endpoint_id)
            if note.failures or note.succeeded:
                known.success_written_at = None if note.failures else now
            if note.breaker:
                known.in_database = note.breaker.openings if note.breaker.open_for is not None else 0
                if _is_of(known, note.breaker):
                    known.unwritten, known.changed_at = 0, self.monotonic()

    def _note(self, endpoint_id: UUID, gathered: _Gathered) -> HealthNote:
        return HealthNote(
            endpoint_id,
            gathered.tenant_id,
            gathered.succeeded,
            gathered.failures,
            gathered.error,
            self._change(endpoint_id),
        )

    def _change(self, endpoint_id: UUID) -> BreakerChange | None:
        known = self._known.get(endpoint_id)
        if known is None or not known.unwritten:
            return None
        if known.breaker.closed:
            return BreakerChange(known.unwritten, None)
        left = max(0.0, known.breaker.probing_from - self.monotonic())
        follows = known.in_database if known.unwritten > 1 else 0
        return BreakerChange(known.unwritten, timedelta(seconds=left), follows)

    def _is_news(self, note: HealthNote, now: datetime) -> bool:
        if note.failures or note.breaker:
            return True
        known = self._known.get(note.endpoint_id)
        noted = known.success_written_at if known else None
        return note.succeeded and (noted is None or abs(now - noted) >= _SUCCESS_EVERY)

    def _touch(self, endpoint_id: UUID) -> _Known:
        known = self._known.get(endpoint_id)
        if known is not None:
            self._known.move_to_end(endpoint_id)
            return known
        while len(self._known) >= _MAX_KNOWN:
            self._known.popitem(last=False)
        known = self._known[endpoint_id] = _Known()
        return known


def _is_of(known: _Known, change: BreakerChange) -> bool:
    """Whether this is the latest change: the breaker may have changed again during the write."""
    return change.openings == known.unwritten and (change.open_for is None) == known.breaker.closed


def _gather(gathered: _Gathered, claim: ClaimedDelivery, attempt: Attempt) -> None:
    if attempt.outcome == "ok":
        gathered.succeeded, gathered.failures, gathered.error = True, 0, None
        gathered.recovers |= claim.endpoint is not None and claim.endpoint.failing
    else:
        gathered.failures += 1
        gathered.error = attempt.error or attempt.outcome
