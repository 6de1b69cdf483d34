"""Replays on request: new attempts of the same deliveries, with the same event ids."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from consumers.event_type_matching import TEST, matches
from schema.connections.database import Database, Pool
from schema.core import endpoints, tenants
from schema.core.endpoints import Endpoint
from schema.deliveries import delivery_history, replays, retry_switch
from schema.deliveries.replay_steps import step
from schema.deliveries.replays import PositionRange, Replay, ReplayKind, TimeRange
from schema.errors import Conflict, InvalidInput, NotFound
from schema.event_log import events
from schema.ids import ENDPOINT, REPLAY, format_id, new_id
from schema.modes import Mode
from schema.timestamps import iso_millis
from service.admin.endpoint_admin import require_endpoint
from service.admin.lookup import locate_delivery

_LONGEST_REST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """A replay and its mode."""

    mode: Mode
    replay: Replay


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries that ended in one of `statuses`. `endpoint_id` None: of all endpoints."""

    tenant_id: UUID
    mode: Mode
    events: TimeRange | PositionRange
    endpoint_id: UUID | None
    statuses: Sequence[str]


async def replay_one(database: Database, delivery_id: UUID) -> tuple[str, Sequence[str]]:
    """Returns its former status, and what blocks the replay. Raises NotFound, and Conflict for a disabled endpoint."""
    location = await locate_delivery(database, delivery_id)
    delivery = await delivery_history.show(location.pool, location.tenant_id, delivery_id)
    _require_enabled(await endpoints.show(database.core, delivery.endpoint_id))
    was = await replays.replay_one(location.pool, location.tenant_id, delivery_id)
    return was, await blockers(database, location.mode, delivery.endpoint_id)


async def begin_replay(database: Database, selection: Selection) -> ReplayJob:
    """Creates the job, or raises InvalidInput, NotFound or Conflict."""
    await _check(database.data(selection.mode), selection.events)
    await tenants.require(database.core, selection.tenant_id)
    if selection.endpoint_id is not None:
        _require_enabled(
            await require_endpoint(database, selection.endpoint_id, selection.tenant_id, selection.mode)
        )
    replay = await replays.begin(
        database.data(selection.mode),
        new_id(),
        selection.tenant_id,
        ReplayKind.REPLAY,
        selection.endpoint_id,
        selection.statuses,
        selection.events,
    )
    return ReplayJob(selection.mode, replay)


async def begin_backfill(database: Database, endpoint_id: UUID, span: TimeRange | PositionRange) -> ReplayJob:
    """Creates the job, or raises InvalidInput, NotFound or Conflict."""
    endpoint = await endpoints.show(database.core, endpoint_id)
    _require_enabled(endpoint)
    await _check(database.data(endpoint.mode), span)
    replay = await replays.begin(
        database.data(endpoint.mode), new_id(), endpoint.tenant_id, ReplayKind.BACKFILL, endpoint_id, (), span
    )
    return ReplayJob(endpoint.mode, replay)


async def unfinished(database: Database, replay_id: UUID) -> ReplayJob:
    """Finds an unfinished job in either mode. Raises NotFound, and Conflict when it is finished."""
    shown = format_id(REPLAY, replay_id)
    for mode in Mode:
        replay = await replays.find(database.data(mode), replay_id)
        if replay is None:
            continue
        if replay.finished_at is not None:
            raise Conflict(f"Replay {shown} finished at {iso_millis(replay.finished_at)}: start a new one.")
        return ReplayJob(mode, replay)
    raise NotFound(f"There is no replay {shown} in either mode: duro delivery replays lists them.")


async def resume(database: Database, job: ReplayJob) -> AsyncIterator[Replay]:
    """Runs the job's steps and yields the job after each. If it is interrupted, call it again to continue.

    It rests for as long as it works: workers must send the replayed deliveries, and new events go first.
    """
    event_types = await _event_types(database, job)
    replay = job.replay
    while replay.finished_at is None:
        began = time.monotonic()
        replay = await step(database.data(job.mode), replay.id, event_types)
        yield replay
        await asyncio.sleep(min(time.monotonic() - began, _LONGEST_REST_S))


async def _event_types(database: Database, job: ReplayJob) -> Sequence[str]:
    """The event types that a backfill's endpoint now subscribes to. Test events are left out: each has one endpoint only."""
    if job.replay.endpoint_id is None or job.replay.kind is not ReplayKind.BACKFILL:
        return ()
    endpoint = await endpoints.show(database.core, job.replay.endpoint_id)
    names = await events.type_names(database.data(job.mode))
    return [name for name in names if name != TEST and matches(endpoint.event_types, name)]


async def blockers(database: Database, mode: Mode, endpoint_id: UUID | None) -> list[str]:
    """Sentences about what blocks a replay, other than a missing worker."""
    found = []
    if await retry_switch.retries_paused(database.data(mode)):
        found.append(
            f"Retries are paused in mode {mode}, and replays with them: duro retries resume --mode {mode}"
        )
    if endpoint_id is not None and (await endpoints.show(database.core, endpoint_id)).paused:
        shown = format_id(ENDPOINT, endpoint_id)
        found.append(f"Endpoint {shown} is paused: duro endpoint resume {shown}")
    return found


async def _check(data: Pool, span: TimeRange | PositionRange) -> None:
    match span:
        case TimeRange(since, until) if since >= (until or await replays.now(data)):
            raise InvalidInput("The time range is empty: --since must be before --until (default: now).")
        case PositionRange(after, int(until)) if after >= until:
            raise InvalidInput("The range is empty: --since-pos must be less than --until-pos.")


def _require_enabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        shown = format_id(ENDPOINT, endpoint.id)
        raise Conflict(f"Endpoint {shown} is disabled: run duro endpoint enable {shown}, then replay.")


async def replay_skipped(database: Database, endpoint: Endpoint, since: datetime) -> ReplayJob:
    """Replays an endpoint's skipped deliveries of events recorded since then."""
    times = TimeRange(since, None)
    return await begin_replay(
        database, Selection(endpoint.tenant_id, endpoint.mode, times, endpoint.id, ("skipped",))
    )
