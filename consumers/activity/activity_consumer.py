"""The consumer of the activity feed: writes one entry per event, in the transaction that moves the cursor."""

from collections.abc import Sequence

import orjson

from consumers.activity.entry_text import summary_of
from consumers.activity.event_links import links_of
from consumers.event_data import currency, integer, read
from consumers.projection_handlers import in_chunks
from schema.connections.database import Connection
from schema.event_log.log import LoggedEvent
from schema.read_models import activity_feed
from schema.read_models.activity_feed import ACTIVITY, NewEntry


class Activity:
    name = ACTIVITY

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        entries: list[NewEntry] = []
        async for chunk in in_chunks(events):
            entries += map(new_entry, chunk)
        await activity_feed.add(tx, generation, entries)


def new_entry(event: LoggedEvent) -> NewEntry:
    data = read(event.data)
    links = links_of(event.type, data)
    kind, subject = links.subject or (None, None)
    amount = integer(data.get("amount"))
    return NewEntry(
        event.id,
        event.tenant_id,
        event.created_at,
        event.pos,
        event.type,
        summary_of(event.type, data, event.created_at),
        kind,
        subject,
        links.subscription,
        links.invoice,
        links.customer,
        amount,
        None if amount is None else currency(data.get("currency")),
        orjson.dumps(links.named).decode(),
    )
