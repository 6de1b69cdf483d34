"""Records subscription events from the catalog's examples."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from schema.connections.database import Executor
from schema.event_catalog import catalog
from schema.ids import PLAN, SUBSCRIPTION, format_id, new_id


def event(type_: str, subscription: UUID | None = None, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Returns the catalog's example with these fields replaced. `...` removes a field."""
    data = dict(catalog()[type_].example)
    if subscription is not None:
        data["subscriptionId"] = format_id(SUBSCRIPTION, subscription)
    data |= fields
    return type_, {key: value for key, value in data.items() if value is not ...}


def plan_id() -> str:
    return format_id(PLAN, new_id())


async def record_event(
    producer: Executor, tenant: UUID, what: tuple[str, dict[str, Any]], at: datetime | None = None
) -> UUID:
    type_, data = what
    made: UUID = await producer.fetchval(
        "SELECT record_event($1::uuid, $2, $3::text::jsonb, $4::timestamptz)",
        tenant,
        type_,
        json.dumps(data),  # any integer, which orjson refuses
        at,
    )
    return made
