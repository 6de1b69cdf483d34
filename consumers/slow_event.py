"""Decides whether a statement timeout is the fault of the single event that it applied.

The server reports a timeout and a cancel with the same SQLSTATE, 57014. Also, a healthy statement takes long when it waits
for locks or when the server is overloaded. So a try counts against its event only if all of this holds:

    by our own clock, the statement had run for the whole of statement_timeout: it was not cancelled
    other queries were answered promptly during that time: the server was not overloaded
    no sample of the session found it waiting for a lock, and most samples did not find it waiting for a disk

Waiting for one lock ends with its own error (lock_timeout is shorter), but a statement may wait for many locks.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg

from schema.connections import session_state
from schema.connections.database import Connection, Pool

_SAMPLES: Final = 10
"""Per statement_timeout."""
_MIN_SAMPLES: Final = 3
_PROMPT_S: Final = 1.0
_PROMPT_SHARE: Final = 0.2
_WAITS_FOR_OTHERS: Final = frozenset({"Lock", "BufferPin"})
_WAITS_FOR_MACHINE: Final = frozenset({"IO", "IPC", "LWLock"})


class SlowEvent:
    """Observes one try with a single event."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._timeout_s = 0.0
        self._ended_after_s = 0.0
        self._samples = 0
        self._waited_for_machine = 0
        self._has_excuse = False  # it waited for a lock, or the server was slow

    @contextlib.asynccontextmanager
    async def observing(self, tx: Connection) -> AsyncIterator[None]:
        self._timeout_s = await session_state.statement_timeout_s(tx)
        sampling = asyncio.create_task(self._sample_session(tx.get_server_pid()))
        try:
            with tx.query_logger(self._note):
                try:
                    yield
                finally:
                    await asyncio.sleep(0)  # the driver calls the logger in the event loop's next iteration
        finally:
            sampling.cancel()
            await asyncio.wait([sampling])

    @property
    def is_at_fault(self) -> bool:
        return (
            0 < self._timeout_s <= self._ended_after_s
            and self._samples >= _MIN_SAMPLES
            and self._waited_for_machine * 2 <= self._samples
            and not self._has_excuse
        )

    def _note(self, query: Any) -> None:
        if isinstance(query.exception, asyncpg.QueryCanceledError):
            self._ended_after_s = query.elapsed

    async def _sample_session(self, pid: int) -> None:
        if not self._timeout_s:
            return
        prompt_s = min(_PROMPT_S, self._timeout_s * _PROMPT_SHARE)
        while True:
            await asyncio.sleep(self._timeout_s / _SAMPLES)
            began = time.monotonic()
            try:
                waits_for = await session_state.waits_for(self._pool, pid)
            except Exception:  # noqa: BLE001  any error means that the database did not answer promptly
                self._has_excuse = True
                return
            self._samples += 1
            self._waited_for_machine += waits_for in _WAITS_FOR_MACHINE
            self._has_excuse |= waits_for in _WAITS_FOR_OTHERS or time.monotonic() - began > prompt_s
