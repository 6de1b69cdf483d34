"""Whether an event alone is to blame for a statement that ran out of time.

The server ends a statement for its length, or because somebody cancelled it, with one and the same SQLSTATE, 57014; and
a healthy statement takes long when it waits for locks or when the server is overloaded. So a try counts against its event
only if all of this holds:

    our own clock says that the statement which was ended had run for the whole of statement_timeout: it was no cancel
    other queries were answered promptly all the while: the server was not overloaded
    no look at the session found it waiting for a lock, and most did not find it waiting for a disk

Waiting for one lock has an error of its own (lock_timeout is shorter), but a statement may wait for many.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg

from schema.connections import session_state
from schema.connections.database import Connection, Pool

_LOOKS: Final = 10
"""In the time that a statement may take."""
_LEAST_LOOKS: Final = 3
_PROMPT_S: Final = 1.0
_PROMPT_SHARE: Final = 0.2
_WAITS_FOR_OTHERS: Final = frozenset({"Lock", "BufferPin"})
_WAITS_FOR_MACHINE: Final = frozenset({"IO", "IPC", "LWLock"})


class SlowEvent:
    """Observes one try with the event alone."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._timeout_s = 0.0
        self._ended_after_s = 0.0
        self._looks = 0
        self._waited_for_machine = 0
        self._in_the_way = False

    @contextlib.asynccontextmanager
    async def observing(self, tx: Connection) -> AsyncIterator[None]:
        self._timeout_s = await session_state.statement_timeout_s(tx)
        looking = asyncio.create_task(self._look_again_and_again(tx.get_server_pid()))
        try:
            with tx.query_logger(self._note):
                try:
                    yield
                finally:
                    await asyncio.sleep(0)  # the driver calls the logger in the loop's next round
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    @property
    def is_to_blame(self) -> bool:
        return (
            0 < self._timeout_s <= self._ended_after_s
            and self._looks >= _LEAST_LOOKS
            and self._waited_for_machine * 2 <= self._looks
            and not self._in_the_way
        )

    def _note(self, query: Any) -> None:
        if isinstance(query.exception, asyncpg.QueryCanceledError):
            self._ended_after_s = query.elapsed

    async def _look_again_and_again(self, pid: int) -> None:
        if not self._timeout_s:
            return
        prompt_s = min(_PROMPT_S, self._timeout_s * _PROMPT_SHARE)
        while True:
            await asyncio.sleep(self._timeout_s / _LOOKS)
            began = time.monotonic()
            try:
                waits_for = await session_state.waits_for(self._pool, pid)
            except Exception:  # noqa: BLE001  whatever it is, the database does not answer promptly
                self._in_the_way = True
                return
            self._looks += 1
            self._waited_for_machine += waits_for in _WAITS_FOR_MACHINE
            self._in_the_way |= waits_for in _WAITS_FOR_OTHERS or time.monotonic() - began > prompt_s
