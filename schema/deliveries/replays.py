"""Replays: one delivery at once, or many as a job that can be stopped anywhere and goes on. See replay_steps.py for how."""

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
"""A batch that began before a change, and had not seen it, has been committed by then."""


class Kind(StrEnum):
    REPLAY = "replay"
    """Deliveries that ended begin anew."""
    BACKFILL = "backfill"
    """An endpoint gets the deliveries that it lacks."""


@dataclass(frozen=True, slots=True)
class Times:
    """Events recorded in [since, until)."""

    since: datetime
    until: datetime | None
    """None: when the job begins, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Events at positions in (after, until]."""

    after: int
    until: int | None
    """None: the log's end, as it is when the job begins."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A job as it stands. Either the times or the positions are None."""

    id: UUID
    tenant_id: UUID
    kind: Kind
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
    """Deliveries so far, or events of a backfill."""
    replayed: int
    skipped: int
    """Deliveries left as they are because their endpoint is disabled."""
    created_at: datetime
    moved_at: datetime
    finished_at: datetime | None

    @property
    def progress(self) -> float:
        """How much of its range lies behind it, from 0 to 1."""
        if self.finished_at is not None:
            return 1.0
        if self.since is not None and self.until is not None and self.at_time is not None:
            return (self.at_time - self.since) / (self.until - self.since)
        if self.after_pos is not None and self.until_pos is not None and self.at_pos is not None:
            return (self.at_pos - self.after_pos) / max(self.until_pos - self.after_pos, 1)
        raise AssertionError("a replay has times or positions")


def read_replay(row: Record) -> Replay:
    return Replay(**{**row, "kind": Kind(row["kind"])})


async def begin(
    data: Executor,
    replay_id: UUID,
    tenant_id: UUID,
    kind: Kind,
    endpoint_id: UUID | None,
    statuses: Sequence[str],
    events: Times | Positions,
) -> Replay:
    """Nothing is replayed yet. The times or positions are in order; `statuses` are none for a backfill."""
    match events:
        case Times(since, until):
            bounds: tuple[object, ...] = (since, until, None, None)
        case Positions(after, until_pos):
            bounds = (None, None, after, until_pos)
    row = await data.fetchrow(_SQL["begin"], replay_id, tenant_id, kind.value, endpoint_id, statuses, *bounds)
    assert row is not None
    return read_replay(row)


async def now(data: Executor) -> datetime:
    """By the database's clock, which events are recorded by and another machine's may be ahead of or behind."""
    moment: datetime = await data.fetchval(_SQL["now"])
    return moment


async def find(data: Executor, replay_id: UUID) -> Replay | None:
    row = await data.fetchrow(_SQL["show"], replay_id)
    return read_replay(row) if row else None


async def list_replays(data: Executor, tenant_id: UUID, after: After, limit: int) -> Page[Replay]:
    rows = await data.fetch(_SQL["list"], tenant_id, after.created_at, after.id, limit + 1)
    return page([read_replay(row) for row in rows], limit)


async def replay_one(data: Executor, tenant_id: UUID, delivery_id: UUID) -> str:
    """The status it had. A pending delivery gets one more attempt at once and keeps its schedule."""
    was: str | None = await data.fetchval(_SQL["replay_one"], tenant_id, delivery_id)
    if was is None:
        raise NotFound(
            f"There is no delivery {format_id(DELIVERY, delivery_id)} of this tenant in this mode."
        )
    return was


@dataclass(frozen=True, slots=True)
class Skipped:
    """Deliveries that were skipped since a moment."""

    count: int
    since: datetime | None
    """No later than when any of their events was recorded; None when there is none."""
    more: bool
    """There may be more than were counted: it was not worth the while to look at them all."""


async def skipped_since(
    data: Executor, tenant_id: UUID, endpoint_id: UUID, moment: datetime, most: int = COUNT_LIMIT
) -> Skipped:
    row = await data.fetchrow(_SQL["skipped_since"], tenant_id, endpoint_id, moment - _UNDER_WAY, most)
    assert row is not None
    return Skipped(**row)
