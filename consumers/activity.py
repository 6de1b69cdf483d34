"""The activity feed's consumer: each event becomes one line, in the transaction that moves the cursor."""

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from consumers.activity_data import currency, integer, read
from consumers.activity_lines import line_of
from consumers.activity_links import links_of
from schema import activity
from schema.activity import ACTIVITY, NewLine
from schema.database import Connection
from schema.log import LoggedEvent

_AT_A_TIME: Final = 50
"""About a millisecond's work: whoever sends in this process need not wait for a whole batch."""


class Activity:
    name = ACTIVITY

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None:
        lines: list[NewLine] = []
        for first in range(0, len(events), _AT_A_TIME):
            lines += map(new_line, events[first : first + _AT_A_TIME])
            await asyncio.sleep(0)
        await activity.add(tx, generation, lines)


def new_line(event: LoggedEvent) -> NewLine:
    data = read(event.data)
    links = links_of(event.type, data)
    kind, subject = links.subject or (None, None)
    amount = integer(data.get("amount"))
    return NewLine(
        event.id,
        event.tenant_id,
        event.created_at,
        event.pos,
        event.type,
        line_of(event.type, data, event.created_at),
        kind,
        subject,
        links.subscription,
        links.invoice,
        links.customer,
        amount,
        None if amount is None else currency(data.get("currency")),
        orjson.dumps(links.named).decode(),
    )
