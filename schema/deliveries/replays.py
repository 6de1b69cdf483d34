"""Replays: one delivery immediately, or many as a job that can be interrupted anywhere and resumed. See replay_steps.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from asyncpg import Record

from schema.connections.database import Executor
from schema.errors import NotFound
from schema.ids import DELIVERY, format_id
from schema.pages import After, Page, page
from schema.queries import load

_SQL = load("replays")
UNDELIVERED: Final = ("failed", "skipped")
SETTLED: Final = (*UNDELIVERED, "delivered")
COUNT_LIMIT: Final = 100_000
_UNDER_WAY: Final = timedelta(minutes=1)
"""After this time, a batch that began before a change, and did not see it, has committed."""


class ReplayKind(StrEnum):
    REPLAY = "replay"
    """Settled deliveries restart their schedule."""
    BACKFILL = "backfill"
    """An endpoint gets the deliveries that it has never had."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Events recorded in [since, until)."""

    since: datetime
    until: datetime | None
    """None: the time when the job begins, by the database's clock."""


@dataclass(frozen=True, slots=True)
class PositionRange:
    """Events at positions in (after, until]."""

    after: int
    until: int | None
    """None: the log's end when the job begins."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The state of a job. Either the times or the positions are None."""

    id: UUID
    tenant_id: UUID
    kind: ReplayKind
    endpoint_id: UUID | None
    statuses: Sequence[str]
    since: datetime | None
    until: datetime | None
    after_pos: int | None
    until_pos: int | None
    at_time: datetime | None
    at_id: UUID | None
    at_pos: int | None
    examined: int
    """Deliveries examined so far, or events in a backfill."""
    replayed: int
    skipped: int
    """Deliveries not replayed because their endpoint is disabled."""
    created_at: datetime
    moved_at: datetime
    finished_at: datetime | None

    @property
    def progress(self) -> float:
        """The share of its range that is done, from 0 to 1."""
        if self.finished_at is not None:
            return 1.0
        if self.since is not None and self.until is not None and self.at_time is not None:
            return (self.at_time - self.since) / (self.until - self.since)
        if self.after_pos is not None and self.until_pos is not None and self.at_pos is not None:
            return (self.at_pos - self.after_pos) / max(self.until_pos - self.after_pos, 1)
        raise AssertionError("a replay has times or positions")


def read_replay(row: Record) -> Replay:
    return Replay(**{**row, "kind": ReplayKind(row["kind"])})


async def begin(
    data: Executor,
    replay_id: UUID,
    tenant_id: UUID,
    kind: ReplayKind,
    endpoint_id: UUID | None,
    statuses: Sequence[str],
    events: TimeRange | PositionRange,
) -> Replay:
    """Creates the job; its steps replay later. The caller has checked the range; a backfill has no `statuses`."""
    match events:
        case TimeRange(since, until):
            bounds: tuple[object, ...] = (since, until, None, None)
        case PositionRange(after, until_pos):
            bounds = (None, None, after, until_pos)
    row = await data.fetchrow(_SQL["begin"], replay_id, tenant_id, kind.value, endpoint_id, statuses, *bounds)
    assert row is not None
    return read_replay(row)


async def now(data: Executor) -> datetime:
    """The time by the database's clock, which also stamps events. Another machine's clock may differ."""
    time: datetime = await data.fetchval(_SQL["now"])
    return time


async def find(data: Executor, replay_id: UUID) -> Replay | None:
    row = await data.fetchrow(_SQL["show"], replay_id)
    return read_replay(row) if row else None


async def list_replays(data: Executor, tenant_id: UUID, after: After, limit: int) -> Page[Replay]:
    rows = await data.fetch(_SQL["list"], tenant_id, after.created_at, after.id, limit + 1)
    return page([read_replay(row) for row in rows], limit)


async def replay_one(data: Executor, tenant_id: UUID, delivery_id: UUID) -> str:
    """Replays one delivery and returns its former status. A pending one gets one immediate attempt and keeps its schedule."""
    was: str | None = await data.fetchval(_SQL["replay_one"], tenant_id, delivery_id)
    if was is None:
        raise NotFound(
            f"There is no delivery {format_id(DELIVERY, delivery_id)} of this tenant in this mode."
        )
    return was


@dataclass(frozen=True, slots=True)
class SkippedCount:
    """Deliveries that were skipped since some time."""

    count: int
    since: datetime | None
    """No later than the time of any of their events. None: there are no such deliveries."""
    more: bool
    """The count ended at its limit: there may be more."""


async def skipped_since(
    data: Executor, tenant_id: UUID, endpoint_id: UUID, time: datetime, limit: int = COUNT_LIMIT
) -> SkippedCount:
    row = await data.fetchrow(_SQL["skipped_since"], tenant_id, endpoint_id, time - _UNDER_WAY, limit)
    assert row is not None
    return SkippedCount(**row)
