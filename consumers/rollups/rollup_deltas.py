"""Folds events, in log order, into deltas of the rollups. Pure, except that it updates the given states.

The deltas of the same events add up to the same sums, however they are cut into batches.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from consumers.rollups.event_facts import EventFacts, read_facts
from consumers.rollups.movements import CHANGING, STATEFUL, movements, next_state, recovery
from schema.event_log.log import LoggedEvent
from schema.read_models.rollups import Deltas, Subscription, SubscriptionStates

Key = TypeVar("Key")


class DeltaBatch:
    def __init__(self, events: Sequence[LoggedEvent] = ()) -> None:
        self._events: list[tuple[LoggedEvent, EventFacts]] = []
        self.add(events)

    def add(self, events: Sequence[LoggedEvent]) -> None:
        """Appends events, in log order."""
        self._events += [(event, read_facts(event.data)) for event in events]

    def subscriptions(self) -> set[Subscription]:
        """Returns the subscriptions whose states `deltas` needs."""
        return {
            (event.tenant_id, facts.subscription_id)
            for event, facts in self._events
            if facts.subscription_id is not None and event.type in STATEFUL
        }

    def deltas(self, states: SubscriptionStates) -> Deltas:
        """Returns the deltas. `states` holds the known states and is updated."""
        deltas = Deltas()
        for event, facts in self._events:
            hour = event.created_at.replace(minute=0, second=0, microsecond=0)
            _count(deltas, event, hour, facts)
            if event.type in STATEFUL:
                _move(deltas, states, event, hour, facts)
        return deltas


def _count(deltas: Deltas, event: LoggedEvent, hour: datetime, facts: EventFacts) -> None:
    key = (event.tenant_id, event.type, hour, facts.plan_id, facts.rail, facts.failure_code, facts.currency)
    amount = facts.amount
    sums = deltas.events.get(key)
    if sums is None:
        deltas.events[key] = [1, int(amount is None), amount or 0]
        return
    sums[0] += 1
    if amount is None:
        sums[1] += 1
    else:
        sums[2] += amount


def _move(
    deltas: Deltas, states: SubscriptionStates, event: LoggedEvent, hour: datetime, facts: EventFacts
) -> None:
    tenant = event.tenant_id
    key = None if facts.subscription_id is None else (tenant, facts.subscription_id)
    before = None if key is None else states.get(key)
    late = before is not None and before.pos >= event.pos
    step = recovery(None if late else before, event.type, facts)
    if step is not None:
        _add(deltas.recoveries, (tenant, hour, step.kind, step.failure_code, step.currency), (1, step.amount))
    if key is None or late or event.type not in CHANGING:
        return
    after = next_state(before, event.pos, event.type, facts)
    states[key] = deltas.states[key] = after
    for movement in movements(before, after, facts.reason):
        sums = (tenant, hour, movement.kind, movement.plan_id, movement.currency)
        _add(deltas.movements, sums, (movement.subscriptions, movement.counted, movement.mrr))


def _add(sums: dict[Key, list[int]], key: Key, more: Iterable[int]) -> None:
    so_far = sums.get(key)
    sums[key] = list(more) if so_far is None else [a + b for a, b in zip(so_far, more, strict=True)]
