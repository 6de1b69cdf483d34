"""Decides which months of data may be deleted. Age alone is not enough: a month is kept while anything needs it, and each reason
is reported.

What is deleted together, and how:

    events, event_log                    dropped, with the remaining deliveries and attempts of the month
    webhook_deliveries, webhook_attempts emptied when they are due before their events. The partition stays, so that a
                                         backfill can insert a delivery and a replay an attempt
    activity_g…                          emptied while the month may still receive events, dropped afterwards

A delivery needs its event to be sent again, and an attempt belongs to a delivery, so neither may outlive it.
Months are deleted oldest first. A month that is kept keeps all later ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg

from schema.durations import format_duration
from schema.errors import InvalidInput
from schema.ids import REPLAY, format_id
from schema.modes import Mode
from schema.queries import load
from schema.read_models.projections import REBUILD

_SQL = load("retention")
EVENTS: Final = ("events", "event_log")  # in this order: see retention_run.py
DELIVERIES: Final = ("webhook_deliveries", "webhook_attempts")
ATTEMPTS: Final = ("webhook_attempts",)
_ACTIVITY: Final = re.compile(r"activity_g\d+")
_REPLAYS_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Ages:
    """The minimum age of each, counted from the end of its month; None means for ever. Raises InvalidInput."""

    events: timedelta | None = None
    deliveries: timedelta | None = None
    attempts: timedelta | None = None
    activity: timedelta | None = None

    def __post_init__(self) -> None:
        self._require_no_longer("deliveries", self.deliveries, "events", self.events, "to be sent again")
        self._require_no_longer("attempts", self.attempts, "deliveries", self.deliveries, "to belong to")
        if not any((self.events, self.deliveries, self.attempts, self.activity)):
            raise InvalidInput(
                "Nothing to delete: give --events, --deliveries, --attempts or --activity, such as --attempts 90d."
            )

    @staticmethod
    def _require_no_longer(
        what: str, age: timedelta | None, than: str, most: timedelta | None, why: str
    ) -> None:
        if most is not None and (age is None or age > most):
            raise InvalidInput(
                f"{what.capitalize()} cannot be kept longer than {than}, which they need {why}: "
                f"give --{what} {format_duration(most)} or less."
            )


class Deletion(StrEnum):
    DROP = "drop"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Month:
    first: date

    @property
    def start(self) -> datetime:
        return datetime(self.first.year, self.first.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        following = self.start + timedelta(days=31)
        return following.replace(day=1)

    @property
    def suffix(self) -> str:
        return f"{self.first:%Y_%m}"

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"

    def is_past(self, age: timedelta | None, now: datetime) -> bool:
        return age is not None and self.end <= now - age


@dataclass(frozen=True, slots=True)
class Partition:
    parent: str
    name: str
    bytes: int
    filled: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a month. They remain true only while it is sealed."""

    events: int
    unsequenced: int
    first_pos: int
    last_pos: int
    pending: int
    just_settled: int
    uncounted: int
    behind: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[str, int] = field(default_factory=dict)
    replays: Sequence[UUID] = ()


class RowKind(StrEnum):
    """Which age applies, and which reasons keep the month."""

    EVENTS = "events"
    DELIVERIES = "deliveries"
    ATTEMPTS = "attempts"
    ACTIVITY = "activity"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One month of one kind that is old enough to be deleted."""

    month: Month
    kind: RowKind
    deletion: Deletion
    partitions: Sequence[Partition]
    after_events: bool = False
    """Drop it only after the month's events were dropped; before that, empty it."""

    def emptied(self) -> "Candidate | None":
        """Returns the candidate for emptying the filled partitions; None if all are empty."""
        filled = [partition for partition in self.partitions if partition.filled]
        return Candidate(self.month, self.kind, Deletion.EMPTY, filled) if filled else None

    @property
    def half_attached(self) -> str | None:
        """The problem if only one of events and event_log is attached. The cause is unknown, so the operator must decide."""
        attached = {partition.parent for partition in self.partitions}
        if self.kind is not RowKind.EVENTS or len(attached & set(EVENTS)) != 1:
            return None
        missing, other = EVENTS if EVENTS[1] in attached else reversed(EVENTS)
        return (
            f"{other}_{self.month.suffix} is attached and {missing}_{self.month.suffix} is not: "
            "attach this one, or detach both"
        )

    @property
    def bytes(self) -> int:
        return sum(partition.bytes for partition in self.partitions)


def candidates(months: Mapping[Month, Sequence[Partition]], ages: Ages, now: datetime) -> list[Candidate]:
    """Returns the candidates, oldest first. The first of a month covers the later ones of the same rows."""
    return [
        candidate
        for month in sorted(months, key=lambda month: month.first)
        for candidate in _of_month(month, months[month], ages, now)
    ]


def _of_month(month: Month, there: Sequence[Partition], ages: Ages, now: datetime) -> list[Candidate]:
    log = [partition for partition in there if partition.parent in (*EVENTS, *DELIVERIES)]
    found = []
    if log and month.is_past(ages.events, now):
        found.append(Candidate(month, RowKind.EVENTS, Deletion.DROP, log))
    if month.is_past(ages.deliveries, now):
        found += _to_empty(month, RowKind.DELIVERIES, [p for p in log if p.parent in DELIVERIES])
    if month.is_past(ages.attempts, now):
        found += _to_empty(month, RowKind.ATTEMPTS, [p for p in log if p.parent in ATTEMPTS])
    activity = [partition for partition in there if _ACTIVITY.fullmatch(partition.parent)]
    if activity and month.is_past(ages.activity, now):
        found.append(Candidate(month, RowKind.ACTIVITY, Deletion.DROP, activity, after_events=bool(log)))
    return found


def _to_empty(month: Month, kind: RowKind, partitions: Sequence[Partition]) -> list[Candidate]:
    candidate = Candidate(month, kind, Deletion.EMPTY, partitions).emptied()
    return [candidate] if candidate else []


def reasons_to_keep(facts: Facts, kind: RowKind, mode: Mode) -> list[str]:
    """Returns why the month must be kept; empty if nothing needs it."""
    reasons = []
    if kind is not RowKind.ATTEMPTS:
        if facts.unsequenced:
            reasons.append(f"{_count(facts.unsequenced, 'event')} without a position: run a worker")
        reasons += [f"consumer {name} is {_count(n, 'event')} behind" for name, n in facts.behind.items()]
        reasons += [
            f"{_count(n, 'event')} dead-lettered by consumer {name}: {_way_out(name, mode)}"
            for name, n in facts.dead.items()
        ]
    if kind is not RowKind.ACTIVITY and facts.pending:
        reasons.append(f"{_count(facts.pending, 'delivery', 'deliveries')} pending")
    if kind is not RowKind.ACTIVITY and facts.uncounted:
        reasons.append(f"{_count(facts.uncounted, 'attempt')} not yet in the hourly rollups: run a worker")
    if kind in {RowKind.EVENTS, RowKind.DELIVERIES}:
        if facts.just_settled:
            settled = _count(facts.just_settled, "delivery", "deliveries")
            reasons.append(f"{settled} settled within the last hour")
        if facts.replays and facts.events:
            reasons.append(_unfinished(facts.replays))
    return reasons


def _way_out(consumer: str, mode: Mode) -> str:
    projection = consumer.removesuffix(REBUILD)
    if projection == consumer:
        return "see duro consumers retry-dead"
    rebuild = f"duro consumers rebuild {projection} --mode {mode}"
    return f"finish the rebuild with {rebuild}, or abandon it with {rebuild} --give-up"


def _unfinished(replays: Sequence[UUID]) -> str:
    named = ", ".join(format_id(REPLAY, replay) for replay in replays[:_REPLAYS_NAMED])
    return f"{_count(len(replays), 'replay')} unfinished ({named}): see duro delivery replay --resume"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


async def monthly_partitions(owner: asyncpg.Connection) -> dict[Month, list[Partition]]:
    found: dict[Month, list[Partition]] = {}
    for row in await owner.fetch(_SQL["partitions"]):
        partition = Partition(row["parent"], row["partition"], row["bytes"], row["filled"])
        found.setdefault(Month(row["month"]), []).append(partition)
    return found


async def facts_of(owner: asyncpg.Connection, month: Month) -> Facts:
    span = (month.start, month.end)
    row = await owner.fetchrow(_SQL["month_facts"], *span)
    assert row is not None
    behind = await owner.fetch(_SQL["lagging_consumers"], *span)
    dead = await owner.fetch(_SQL["dead_events"], *span)
    replays = await owner.fetch(_SQL["replays"], *span, row["first_pos"], row["last_pos"])
    return Facts(
        **row,
        behind={found["consumer"]: found["events"] for found in behind},
        dead={found["consumer"]: found["events"] for found in dead},
        replays=[found["id"] for found in replays],
    )
