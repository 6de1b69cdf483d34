"""Formats a replay as public JSON."""

from schema.deliveries.replays import Replay
from schema.ids import ENDPOINT, REPLAY, TENANT, format_id
from schema.modes import Mode
from schema.timestamps import iso_millis
from service.admin.shapes import Shape


def replay_shape(mode: Mode, replay: Replay) -> Shape:
    """Either the times or the positions are null. `progress` is the share of the range that is done."""
    return {
        "id": format_id(REPLAY, replay.id),
        "tenantId": format_id(TENANT, replay.tenant_id),
        "mode": mode.value,
        "kind": replay.kind.value,
        "endpointId": format_id(ENDPOINT, replay.endpoint_id) if replay.endpoint_id else None,
        "statuses": list(replay.statuses),
        "since": iso_millis(replay.since) if replay.since else None,
        "until": iso_millis(replay.until) if replay.until else None,
        "afterPosition": replay.after_pos,
        "untilPosition": replay.until_pos,
        "replayed": replay.replayed,
        "examined": replay.examined,
        "skippedDisabled": replay.skipped,
        "progress": round(replay.progress, 4),
        "startedAt": iso_millis(replay.created_at),
        "movedAt": iso_millis(replay.moved_at),
        "finishedAt": iso_millis(replay.finished_at) if replay.finished_at else None,
    }
