"""Which months may go. Age alone drops nothing: a month is kept while anybody needs it, and the reason is told.

What goes together, and how:

    events, event_log                    dropped, and with them whatever is left of their deliveries and attempts
    webhook_deliveries, webhook_attempts emptied when they are to go before their events: the partition stays, so that a
                                         backfill finds a place for a delivery, and a replay for an attempt
    activity_g…                          emptied while the month may still get events, and dropped when it has gone

A delivery needs its event to be sent again, and an attempt belongs to a delivery: neither may outlive it.
Months go oldest first; the first that is kept keeps those after it.
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
from schema.projections import REBUILD
from schema.queries import load

_SQL = load("retention")
EVENTS: Final = ("events", "event_log")  # in this order: see retiring.py
DELIVERIES: Final = ("webhook_deliveries", "webhook_attempts")
ATTEMPTS: Final = ("webhook_attempts",)
_ACTIVITY: Final = re.compile(r"activity_g\d+")
_REPLAYS_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Ages:
    """How long each is kept at least, counted from the end of its month; None: for ever. Raises InvalidInput."""

    events: timedelta | None = None
    deliveries: timedelta | None = None
    attempts: timedelta | None = None
    activity: timedelta | None = None

    def __post_init__(self) -> None:
        self._require_no_longer("deliveries", self.deliveries, "events", self.events, "to be sent again")
        self._require_no_longer("attempts", self.attempts, "deliveries", self.deliveries, "to belong to")
        if not any((self.events, self.deliveries, self.attempts, self.activity)):
            raise InvalidInput(
                "Say what is to go and when: --events, --deliveries, --attempts or --activity, such as --attempts 90d."
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


class Fate(StrEnum):
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
    """What is known of a month. Stays true only of one that is sealed."""

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


class Rules(StrEnum):
    """Whose. What belongs to a delivery waits for less."""

    EVENTS = "events"
    DELIVERIES = "deliveries"
    ATTEMPTS = "attempts"
    ACTIVITY = "activity"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One month of one kind, old enough to go."""

    month: Month
    rules: Rules
    fate: Fate
    partitions: Sequence[Partition]
    after_events: bool = False
    """Its fate is that only once the month's events have gone; before, it is emptied."""

    def emptied(self) -> "Candidate | None":
        """None: there is nothing in it."""
        filled = [partition for partition in self.partitions if partition.filled]
        return Candidate(self.month, self.rules, Fate.EMPTY, filled) if filled else None

    @property
    def torn(self) -> str | None:
        """Of events and event_log one is there and the other is not: by whose hand is not for us to guess."""
        there = {partition.parent for partition in self.partitions}
        if self.rules is not Rules.EVENTS or len(there & set(EVENTS)) != 1:
            return None
        missing, other = EVENTS if EVENTS[1] in there else reversed(EVENTS)
        return (
            f"{other}_{self.month.suffix} is attached and {missing}_{self.month.suffix} is not: "
            "attach this one, or detach both"
        )

    @property
    def bytes(self) -> int:
        return sum(partition.bytes for partition in self.partitions)


def candidates(months: Mapping[Month, Sequence[Partition]], ages: Ages, now: datetime) -> list[Candidate]:
    """Oldest first. Of one month the first is the most: whoever does it need not do the others of the same rows."""
    return [
        candidate
        for month in sorted(months, key=lambda month: month.first)
        for candidate in _of_month(month, months[month], ages, now)
    ]


def _of_month(month: Month, there: Sequence[Partition], ages: Ages, now: datetime) -> list[Candidate]:
    log = [partition for partition in there if partition.parent in (*EVENTS, *DELIVERIES)]
    found = []
    if log and month.is_past(ages.events, now):
        found.append(Candidate(month, Rules.EVENTS, Fate.DROP, log))
    if month.is_past(ages.deliveries, now):
        found += _to_empty(month, Rules.DELIVERIES, [p for p in log if p.parent in DELIVERIES])
    if month.is_past(ages.attempts, now):
        found += _to_empty(month, Rules.ATTEMPTS, [p for p in log if p.parent in ATTEMPTS])
    activity = [partition for partition in there if _ACTIVITY.fullmatch(partition.parent)]
    if activity and month.is_past(ages.activity, now):
        found.append(Candidate(month, Rules.ACTIVITY, Fate.DROP, activity, after_events=bool(log)))
    return found


def _to_empty(month: Month, rules: Rules, partitions: Sequence[Partition]) -> list[Candidate]:
    candidate = Candidate(month, rules, Fate.EMPTY, partitions).emptied()
    return [candidate] if candidate else []


def reasons_to_keep(facts: Facts, rules: Rules, mode: Mode) -> list[str]:
    """None: nobody needs it."""
    reasons = []
    if rules is not Rules.ATTEMPTS:
        if facts.unsequenced:
            reasons.append(f"{_count(facts.unsequenced, 'event')} without a position: let a worker run")
        reasons += [f"consumer {name} is {_count(n, 'event')} behind" for name, n in facts.behind.items()]
        reasons += [
            f"{_count(n, 'event')} dead-lettered by consumer {name}: {_way_out(name, mode)}"
            for name, n in facts.dead.items()
        ]
    if rules is not Rules.ACTIVITY and facts.pending:
        reasons.append(f"{_count(facts.pending, 'delivery', 'deliveries')} pending")
    if rules is not Rules.ACTIVITY and facts.uncounted:
        reasons.append(
            f"{_count(facts.uncounted, 'attempt')} not in the hourly figures yet: let a worker run"
        )
    if rules in {Rules.EVENTS, Rules.DELIVERIES}:
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
    return f"finish the rebuild with {rebuild}, or give it up with {rebuild} --give-up"


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
    row = await owner.fetchrow(_SQL["facts"], *span)
    assert row is not None
    behind = await owner.fetch(_SQL["behind"], *span)
    dead = await owner.fetch(_SQL["dead_events"], *span)
    replays = await owner.fetch(_SQL["replays"], *span, row["first_pos"], row["last_pos"])
    return Facts(
        **row,
        behind={found["consumer"]: found["events"] for found in behind},
        dead={found["consumer"]: found["events"] for found in dead},
        replays=[found["id"] for found in replays],
    )
