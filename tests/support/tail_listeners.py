"""Listeners of a tail that record what they receive, as fast as a test lets them."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from consumers.tail import Tail
from consumers.tail_listener import EventsDropped, Listener, TailItem
from tests.support.arrivals import Arrivals


class RecordingListener:
    """Records what one listener receives; it continues only while `may_read` is set."""

    def __init__(self) -> None:
        self.received: Arrivals[TailItem] = Arrivals()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.listener: Listener | None = None

    @property
    def events(self) -> list[UUID]:
        return [received.id for received in self.received if not isinstance(received, EventsDropped)]

    @property
    def positions(self) -> list[int]:
        return [received.pos for received in self.received if not isinstance(received, EventsDropped)]

    async def listen(
        self,
        tail: Tail,
        tenant: UUID,
        types: Collection[str] = (),
        after: int | None = None,
        joined: asyncio.Event | None = None,
    ) -> None:
        async with tail.listen(tenant, types, after=after) as self.listener:
            if joined:
                joined.set()
            async for received in self.listener:
                self.received.add(received)
                await self.may_read.wait()


@asynccontextmanager
async def running(tail: Tail) -> AsyncIterator[asyncio.Event]:
    """Yields the event that stops it."""
    stop = asyncio.Event()
    task = asyncio.create_task(tail.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        tail.hint()  # a test may let it wait for hints alone
        await task


@asynccontextmanager
async def listening(
    tail: Tail, tenant: UUID, types: Collection[str] = (), after: int | None = None
) -> AsyncIterator[RecordingListener]:
    """A listener that has joined."""
    it, joined = RecordingListener(), asyncio.Event()
    task = asyncio.create_task(it.listen(tail, tenant, types, after, joined))
    waiting = asyncio.create_task(joined.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield it
    finally:
        waiting.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
