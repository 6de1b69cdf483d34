"""Decides when an endpoint's health is worth a write: at each failure, at the first success after one, and
otherwise once a minute. A healthy endpoint's row is not rewritten by every delivery.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from schema.deliveries import HealthNote, Settlement

_AGAIN_AFTER = timedelta(minutes=1)
_REMEMBERED = 10_000


class HealthBook:
    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._healthy_since_note: dict[UUID, datetime] = {}

    def notes(self, settlements: Iterable[Settlement]) -> list[HealthNote]:
        """One note per endpoint that needs one, from a batch in the order of its results."""
        now = self._now()
        by_endpoint: dict[UUID, HealthNote] = {}
        for settlement in settlements:
            if settlement.attempt is None:
                continue
            claim, ok = settlement.claim, settlement.attempt.outcome == "ok"
            before = by_endpoint.get(claim.endpoint_id)
            by_endpoint[claim.endpoint_id] = HealthNote(
                claim.endpoint_id,
                claim.tenant_id,
                succeeded=ok or (before is not None and before.succeeded),
                failures=0 if ok else 1 + (before.failures if before else 0),
                at=now,
                error=None if ok else (settlement.attempt.error or settlement.attempt.outcome),
            )
        return [note for note in by_endpoint.values() if self._is_news(note, now)]

    def written(self, notes: Sequence[HealthNote]) -> None:
        for note in notes:
            self._healthy_since_note.pop(note.endpoint_id, None)
            if not note.failures:
                self._healthy_since_note[note.endpoint_id] = note.at
        while len(self._healthy_since_note) > _REMEMBERED:
            del self._healthy_since_note[next(iter(self._healthy_since_note))]

    def _is_news(self, note: HealthNote, now: datetime) -> bool:
        noted = self._healthy_since_note.get(note.endpoint_id)
        return bool(note.failures) or noted is None or now - noted >= _AGAIN_AFTER
