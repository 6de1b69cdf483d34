"""Folds events, in the order of the log, into what is to be added to the rollups: pure, apart from the states, which it
moves on. Any cut of the same events into batches adds up to the same.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from consumers.movements import CHANGING, CONCERNED, changed, movements, recovery
from consumers.told import Told, read
from schema.log import LoggedEvent
from schema.rollups import Deltas, States, Subscription

Key = TypeVar("Key")


class Batch:
    def __init__(self, events: Sequence[LoggedEvent] = ()) -> None:
        self._events: list[tuple[LoggedEvent, Told]] = []
        self.add(events)

    def add(self, events: Sequence[LoggedEvent]) -> None:
        """More of it, in order."""
        self._events += [(event, read(event.data)) for event in events]

    def subscriptions(self) -> set[Subscription]:
        """Those whose states `deltas` has to know."""
        return {
            (event.tenant_id, told.subscription_id)
            for event, told in self._events
            if told.subscription_id is not None and event.type in CONCERNED
        }

    def deltas(self, states: States) -> Deltas:
        """`states` has what is known of them."""
        deltas = Deltas()
        for event, told in self._events:
            hour = event.created_at.replace(minute=0, second=0, microsecond=0)
            _count(deltas, event, hour, told)
            if event.type in CONCERNED:
                _move(deltas, states, event, hour, told)
        return deltas


def _count(deltas: Deltas, event: LoggedEvent, hour: datetime, told: Told) -> None:
    key = (event.tenant_id, event.type, hour, told.plan_id, told.rail, told.failure_code, told.currency)
    amount = told.amount
    sums = deltas.events.get(key)
    if sums is None:
        deltas.events[key] = [1, int(amount is None), amount or 0]
        return
    sums[0] += 1
    if amount is None:
        sums[1] += 1
    else:
        sums[2] += amount


def _move(deltas: Deltas, states: States, event: LoggedEvent, hour: datetime, told: Told) -> None:
    tenant = event.tenant_id
    whose = None if told.subscription_id is None else (tenant, told.subscription_id)
    before = None if whose is None else states.get(whose)
    late = before is not None and before.pos >= event.pos
    risk = recovery(None if late else before, event.type, told)
    if risk is not None:
        _add(deltas.recoveries, (tenant, hour, risk.kind, risk.failure_code, risk.currency), (1, risk.amount))
    if whose is None or late or event.type not in CHANGING:
        return
    after = changed(before, event.pos, event.type, told)
    states[whose] = deltas.states[whose] = after
    for moved in movements(before, after, told.reason):
        key = (tenant, hour, moved.kind, moved.plan_id, moved.currency)
        _add(deltas.movements, key, (moved.subscriptions, moved.counted, moved.mrr))


def _add(sums: dict[Key, list[int]], key: Key, more: Iterable[int]) -> None:
    so_far = sums.get(key)
    sums[key] = list(more) if so_far is None else [a + b for a, b in zip(so_far, more, strict=True)]
