"""Records and sequences events."""

from collections.abc import Sequence
from uuid import UUID

from schema.connections.database import Executor
from schema.event_log import events, log
from schema.ids import EVENT, format_id


async def record(producer: Executor, tenant: UUID, type_: str = "invoice_created", *, n: int = 0) -> UUID:
    return await events.record(producer, tenant, type_, {"n": n})


async def record_many(producer: Executor, tenant: UUID, count: int) -> list[UUID]:
    """Records events in one transaction. Returns the ids in order."""
    rows = await producer.fetch(
        "SELECT record_event($1::uuid, 'invoice_created', jsonb_build_object('n', n)) AS id"
        "  FROM generate_series(1, $2) AS n",
        tenant,
        count,
    )
    return [row["id"] for row in rows]


def event_names(events: Sequence[UUID]) -> list[str]:
    """Returns the public ids."""
    return [format_id(EVENT, event) for event in events]


async def positions(connection: Executor) -> list[tuple[int, UUID]]:
    """Returns the whole log as (pos, event)."""
    return [(entry.pos, entry.id) for entry in (await log.read_after(connection, 0, 1_000_000)).events]


async def in_log(connection: Executor) -> list[UUID]:
    """Returns the whole log in order. Fails unless its positions are 1, 2, 3, …"""
    entries = await positions(connection)
    assert [pos for pos, _ in entries] == list(range(1, len(entries) + 1))
    return [event for _, event in entries]


async def sequence_all(connection: Executor, limit: int = 1000) -> None:
    while await log.sequence(connection, limit):
        pass


async def sequenced(producer: Executor, tenant: UUID, count: int) -> Sequence[log.LoggedEvent]:
    """Records and sequences that many events and returns them."""
    await record_many(producer, tenant, count)
    await sequence_all(producer)
    everything = (await log.read_after(producer, 0, 1_000_000)).events
    return everything[-count:]
