"""What this worker knows of its endpoints' health, and which of it is worth a write.

    result ──observe()──► breaker, once per result      batch ──notes()──► transaction ──written()──► told
                              │                              ▲                 │ failed
                              └───── its change, if any ─────┴──── again ◄─────┘

Worth a write is each failure, the first success after one, whoever noted it, a breaker's change, and otherwise one
success a minute: a healthy endpoint's row is not rewritten by every delivery. Notes are made anew for each try at a
batch, and say what is true at that moment; results enter the breakers once, when they arrive, however often their batch
is tried.

Bounded: of endpoints not heard of for longest nothing is kept. Their open breakers stand in the database, where
claims and fan-out see them, and come back by adopt().
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

_AGAIN_AFTER: Final = timedelta(minutes=1)
_REMEMBERED: Final = 10_000
_OUTCOMES: Final = {"ok": Outcome.OK, "timeout": Outcome.HUNG}  # any other word has failed
_UNHEARD_OF: Final = Breaker()


@dataclass(slots=True)
class _Known:
    breaker: Breaker = _UNHEARD_OF
    untold: int = 0
    """The opening whose beginning, or end, the database has not been told of; 0: none."""
    told: int = 0
    """The opening that the database knew of when it was last told, or asked; 0: the breaker was closed."""
    changed_at: float = float("-inf")
    """When the breaker last changed by results, or the database was told of that: who looked before has not seen it."""
    healthy_noted_at: datetime | None = None


@dataclass(slots=True)
class _Gathered:
    """A note in the making."""

    tenant_id: UUID
    succeeded: bool = False
    failures: int = 0
    error: str | None = None
    recovers: bool = False
    """It succeeded although the database had it failing."""


class HealthBook:
    def __init__(
        self,
        now: Callable[[], datetime],
        random: Callable[[], float] = chance.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` says how long ago a success was noted, and no more; breakers go by `monotonic`, for clocks are set."""
        self._now = now
        self._random = random
        self.monotonic = monotonic
        self._known: OrderedDict[UUID, _Known] = OrderedDict()

    # Breakers

    def closed(self, endpoint_id: UUID) -> bool:
        """False while the breaker is open or half-open, as far as known here."""
        known = self._known.get(endpoint_id)
        return known is None or known.breaker.closed

    def open(self, endpoint_id: UUID) -> bool:
        """Whether nothing may be sent yet, as far as known here, and whether or not the database has been told."""
        known = self._known.get(endpoint_id)
        return known is not None and known.breaker.at(self.monotonic()).state is State.OPEN

    def observe(self, settlement: Settlement) -> None:
        """Once for each result, when it arrives."""
        endpoint_id, attempt = settlement.claim.endpoint_id, settlement.attempt
        if attempt is None:
            self.forget(endpoint_id)  # it was skipped: disabled, so that it will start afresh
            return
        known = self._known.get(endpoint_id)
        if attempt.outcome == "ok" and (known is None or known.breaker.spotless):
            return
        known = self._touch(endpoint_id)
        before, now = known.breaker, self.monotonic()
        began = now - attempt.total_ms / 1000
        outcome = _OUTCOMES.get(attempt.outcome, Outcome.FAILED)
        known.breaker = before.after(outcome, began, now, self._random())
        if known.breaker.openings != before.openings:
            known.untold = known.breaker.openings or before.openings
            known.changed_at = now

    def adopt(self, endpoint_id: UUID, openings: int, looked_at: float) -> bool:
        """The database says that the breaker is half-open after so many openings, or closed if none: another worker saw
        to it, or an earlier life of this one. It was asked at `looked_at`, by `monotonic`, or later. What is decided here
        and not written yet stands against it, and what was written since.

        Whether it begins to be half-open or closed by that, as far as known here: either way the endpoint starts slowly.
        """
        known = self._known.get(endpoint_id)
        if known is None and not openings:
            return False
        known = known or self._touch(endpoint_id)
        if known.untold or looked_at < known.changed_at:
            return False
        before = known.breaker
        known.told = openings
        known.breaker = before.adopted(openings, self.monotonic())
        return known.breaker is not before

    def forget(self, endpoint_id: UUID) -> None:
        self._known.pop(endpoint_id, None)

    def states(self) -> Counter[State]:
        """Of the endpoints known here that are not healthy."""
        now = self.monotonic()
        counts = Counter(known.breaker.at(now).state for known in self._known.values())
        del counts[State.HEALTHY]
        return counts

    # Notes

    def notes(
        self, settlements: Iterable[Settlement], already_counted: Collection[UUID] = ()
    ) -> list[HealthNote]:
        """One note per endpoint that needs one, from a batch in the order of its results. `already_counted`: attempts
        that an earlier try at the batch has noted, although it did not look so."""
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
                known.healthy_noted_at = None if note.failures else now
            if note.breaker:
                known.told = note.breaker.openings if note.breaker.open_for is not None else 0
                if _is_of(known, note.breaker):
                    known.untold, known.changed_at = 0, self.monotonic()

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
        if known is None or not known.untold:
            return None
        if known.breaker.closed:
            return BreakerChange(known.untold, None)
        left = max(0.0, known.breaker.probing_from - self.monotonic())
        follows = known.told if known.untold > 1 else 0
        return BreakerChange(known.untold, timedelta(seconds=left), follows)

    def _is_news(self, note: HealthNote, now: datetime) -> bool:
        if note.failures or note.breaker:
            return True
        known = self._known.get(note.endpoint_id)
        noted = known.healthy_noted_at if known else None
        return note.succeeded and (noted is None or abs(now - noted) >= _AGAIN_AFTER)

    def _touch(self, endpoint_id: UUID) -> _Known:
        known = self._known.get(endpoint_id)
        if known is not None:
            self._known.move_to_end(endpoint_id)
            return known
        while len(self._known) >= _REMEMBERED:
            self._known.popitem(last=False)
        known = self._known[endpoint_id] = _Known()
        return known


def _is_of(known: _Known, change: BreakerChange) -> bool:
    """Whether it tells of the latest there is to tell: more may have come while it was written."""
    return change.openings == known.untold and (change.open_for is None) == known.breaker.closed


def _gather(gathered: _Gathered, claim: ClaimedDelivery, attempt: Attempt) -> None:
    if attempt.outcome == "ok":
        gathered.succeeded, gathered.failures, gathered.error = True, 0, None
        gathered.recovers |= claim.endpoint is not None and claim.endpoint.failing
    else:
        gathered.failures += 1
        gathered.error = attempt.error or attempt.outcome
