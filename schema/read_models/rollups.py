"""Reads and writes the rollups: subscription states, and sums to add. See migrations/data/0018_rollups.sql."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias
from uuid import UUID

from schema.connections.database import Connection
from schema.queries import load

_SQL = load("rollups")
ROLLUPS: Final = "rollups"


class Movement(StrEnum):
    """A change of a subscription and of its monthly recurring revenue."""

    NEW = "new"
    REACTIVATION = "reactivation"
    RESUMED = "resumed"
    EXPANSION = "expansion"
    CONTRACTION = "contraction"
    SWITCH = "switch"
    PAUSED = "paused"
    CHURN_VOLUNTARY = "churn_voluntary"
    CHURN_INVOLUNTARY = "churn_involuntary"
    COMPLETED = "completed"


class Recovery(StrEnum):
    """A step in the recovery of a failed renewal."""

    AT_RISK = "at_risk"
    RECOVERED = "recovered"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"
    WON_BACK = "won_back"


@dataclass(slots=True)
class SubscriptionState:
    """A subscription after the last event applied."""

    pos: int
    status: str
    plan_id: UUID
    currency: str
    mrr: int
    was_active: bool
    failure_code: str


Subscription: TypeAlias = tuple[UUID, UUID]
"""Tenant and id."""
SubscriptionStates: TypeAlias = dict[Subscription, SubscriptionState]
EventKey: TypeAlias = tuple[UUID, str, datetime, UUID, str, str, str]
"""Tenant, type, hour, plan, rail, failure code, currency."""
MovementKey: TypeAlias = tuple[UUID, datetime, Movement, UUID, str]
"""Tenant, hour, kind, plan, currency."""
RecoveryKey: TypeAlias = tuple[UUID, datetime, Recovery, str, str]
"""Tenant, hour, kind, failure code, currency."""


@dataclass(slots=True)
class Deltas:
    """Sums to add, in the order of the tables' columns."""

    events: dict[EventKey, list[int]] = field(default_factory=dict)
    movements: dict[MovementKey, list[int]] = field(default_factory=dict)
    recoveries: dict[RecoveryKey, list[int]] = field(default_factory=dict)
    states: SubscriptionStates = field(default_factory=dict)


async def read_states(
    tx: Connection, generation: int, subscriptions: Iterable[Subscription]
) -> SubscriptionStates:
    """Returns the states of those subscriptions that have one."""
    wanted = list(subscriptions)
    if not wanted:
        return {}
    rows = await tx.fetch(
        _SQL["states"], generation, [tenant for tenant, _ in wanted], [id_ for _, id_ in wanted]
    )
    return {(row[0], row[1]): SubscriptionState(*row[2:]) for row in rows}


async def add(tx: Connection, generation: int, deltas: Deltas) -> None:
    await _write(tx, "add_events", generation, _rows(deltas.events))
    await _write(tx, "add_movements", generation, _rows(deltas.movements))
    await _write(tx, "add_recoveries", generation, _rows(deltas.recoveries))
    await _write(
        tx,
        "save_states",
        generation,
        [
            (*whose, s.pos, s.status, s.plan_id, s.currency, s.mrr, s.was_active, s.failure_code)
            for whose, s in deltas.states.items()
        ],
    )


def _rows(sums: Mapping[Any, list[int]]) -> list[tuple[object, ...]]:
    return [(*key, *of_key) for key, of_key in sums.items()]


async def _write(tx: Connection, statement: str, generation: int, rows: list[tuple[object, ...]]) -> None:
    if rows:
        await tx.execute(_SQL[statement], generation, *zip(*rows, strict=True))
