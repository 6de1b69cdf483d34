"""Runs a replay in steps. Each is a short transaction that hardly slows down first attempts.

      lock the job ─► read the next rows ─► make them pending ─► record the progress ─► commit

A step's changes and its progress commit together. So a process may die anywhere, and the one that resumes the job neither
omits a delivery nor replays one twice. Two processes at one job take turns, step by step.

The rows that a step reads depend on the selection:

      failed or skipped since a time        an index that holds only these deliveries
      all since a time                      the tenant's events and their deliveries
      all since a position                  the log, restricted to the tenant's events

A selection by position walks the log and never uses a time from it: an event recorded long ago may have committed, and got
its position, just now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.connections.database import Connection, Pool
from schema.deliveries.replays import UNDELIVERED, Replay, ReplayKind, read_replay
from schema.errors import Conflict
from schema.ids import ENDPOINT, REPLAY, format_id
from schema.queries import load

_SQL = load("replays")
STEP: Final = 1000
"""Deliveries that one transaction changes, at most."""
_POSITIONS_PER_ROW: Final = 10
"""Most positions are other tenants'. Reading a position costs at most a tenth of changing a delivery."""


@dataclass(frozen=True, slots=True)
class _StepRows:
    """The deliveries or events that a step read, as columns of ids and the events' created_at, and where the step ends."""

    ids: Sequence[UUID]
    created_at: Sequence[datetime]
    at_time: datetime | None
    at_id: UUID | None
    at_pos: int | None
    last: bool


async def step(data: Pool, replay_id: UUID, event_types: Sequence[str], size: int = STEP) -> Replay:
    """Returns the job after the step; a finished job is unchanged. `event_types` are those of a backfill.

    Raises Conflict when a backfill's endpoint is disabled, and when another process locks the job for too long.
    """
    async with data.acquire() as tx, tx.transaction():
        job = await _lock(tx, replay_id)
        if job.finished_at is not None:
            return job
        if job.kind is ReplayKind.BACKFILL:
            await _require_enabled(tx, job)
            rows = await _events(tx, job, size)
            replayed, skipped = await _backfill(tx, job, rows, event_types), 0
        else:
            rows = await _deliveries(tx, job, size)
            replayed, skipped = await _replay(tx, job, rows)
        row = await tx.fetchrow(
            _SQL["move"],
            job.id,
            rows.at_time,
            rows.at_id,
            rows.at_pos,
            len(rows.ids),
            replayed,
            skipped,
            rows.last,
        )
        assert row is not None
        return read_replay(row)


async def _lock(tx: Connection, replay_id: UUID) -> Replay:
    await tx.execute(_SQL["set_lock_timeout"])
    try:
        row = await tx.fetchrow(_SQL["lock"], replay_id)
    except asyncpg.LockNotAvailableError:
        shown = format_id(REPLAY, replay_id)
        raise Conflict(
            f"Another process hangs in a step of replay {shown}. End that process, then resume the replay."
        ) from None
    assert row is not None
    return read_replay(row)


async def _require_enabled(tx: Connection, job: Replay) -> None:
    assert job.endpoint_id is not None
    if not await tx.fetchval(_SQL["is_enabled"], job.tenant_id, job.endpoint_id):
        shown = format_id(ENDPOINT, job.endpoint_id)
        raise Conflict(f"Endpoint {shown} is disabled: run duro endpoint enable {shown}, then resume.")


async def _deliveries(tx: Connection, job: Replay, size: int) -> _StepRows:
    if job.since is not None and set(job.statuses) <= set(UNDELIVERED):
        return await _by_time(tx, "undelivered", job, size)
    per_event = 1 if job.endpoint_id else await tx.fetchval(_SQL["endpoints_of_tenant"], job.tenant_id)
    events = await _events(tx, job, max(size // max(per_event, 1), 1))
    rows = await tx.fetch(
        _SQL["deliveries_of_events"], job.tenant_id, events.ids, events.created_at, job.endpoint_id
    )
    return _step_rows(rows, events.at_time, events.at_id, events.at_pos, last=events.last)


async def _events(tx: Connection, job: Replay, size: int) -> _StepRows:
    if job.since is not None:
        return await _by_time(tx, "events_by_time", job, size)
    rows = await tx.fetch(
        _SQL["events_by_position"], job.tenant_id, job.at_pos, job.until_pos, size * _POSITIONS_PER_ROW
    )
    ours = [row for row in rows if row["ours"]]
    if len(ours) > size:
        return _step_rows(ours[:size], at_pos=ours[size - 1]["pos"], last=False)
    if not rows:  # retention has dropped the rest of the range
        return _step_rows([], at_pos=job.at_pos, last=True)
    reached = rows[-1]["pos"]
    return _step_rows(ours, at_pos=reached, last=reached == job.until_pos)


async def _by_time(tx: Connection, statement: str, job: Replay, size: int) -> _StepRows:
    rows = await tx.fetch(_SQL[statement], job.tenant_id, job.at_time, job.at_id, job.until, size)
    at_time, at_id = (rows[-1]["created_at"], rows[-1]["id"]) if rows else (job.at_time, job.at_id)
    return _step_rows(rows, at_time, at_id, last=len(rows) < size)


def _step_rows(
    rows: Sequence[Any],
    at_time: datetime | None = None,
    at_id: UUID | None = None,
    at_pos: int | None = None,
    *,
    last: bool,
) -> _StepRows:
    ids, created_at = [row["id"] for row in rows], [row["created_at"] for row in rows]
    return _StepRows(ids, created_at, at_time, at_id, at_pos, last)


async def _replay(tx: Connection, job: Replay, rows: _StepRows) -> tuple[int, int]:
    row = await tx.fetchrow(
        _SQL["replay"], job.tenant_id, rows.ids, rows.created_at, job.statuses, job.endpoint_id
    )
    assert row is not None
    return row["replayed"], row["skipped"]


async def _backfill(tx: Connection, job: Replay, rows: _StepRows, event_types: Sequence[str]) -> int:
    added: int = await tx.fetchval(
        _SQL["backfill"], job.tenant_id, job.endpoint_id, rows.ids, rows.created_at, event_types
    )
    return added
