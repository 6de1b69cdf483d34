"""Shows that this worker is alive, and takes over the deliveries of dead workers.

A worker is a row in `workers` that names its database session. If the process dies, the server ends the session
immediately. If it freezes, or its host or network fails, the session gets no more queries, and the server ends it after
`SILENT_FOR`: a timer of the server, which needs no common clock. A pooler in session mode keeps the session of a client
that is gone for the next client. It resets the session first, which releases the mark, an advisory lock: a session
without the mark counts as gone.
Each worker checks the others every second:

      session gone ──for PATIENCE_S──► lock the row ──► end its stuck sessions ──► release its leases ──► delete the row
                 │                          │ the worker is back, or another worker has the lock: nothing happens
                 └─ back in time (a restart of the database ends all sessions): its row names the new session

The row of the dead worker is locked during a take-over, so the worker cannot come back in between. A worker whose row is
gone was declared dead: it registers again, and results under its old leases are fenced off. A sweep finds leases of
unregistered workers: their commit came after the take-over, or another session had them locked. The sweep is a task of its
own, because this worker's session must not be idle while it lasts. For the same reason no error of a sweep or of one
take-over ends the checks.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from schema.connections.database import Database, connect_to_core
from schema.deliveries import deliveries, workers
from schema.failures import carrying_on, succeeded
from schema.modes import Mode
from schema.polling import sleep_unless, through_outages

_logger = logging.getLogger(__name__)
CHECK_EVERY_S = 1.0
PATIENCE_S = 3.0
SILENT_FOR = "3s"  # with PATIENCE_S and two checks it must stay below 10 s, the promised time of a take-over
RECONNECT_WITHIN_S = (
    1.0  # the longest wait between two attempts to reconnect; less than the others' PATIENCE_S
)
ANSWER_WITHIN_S = 10.0
SWEEP_EVERY_S = 30.0
SWEEP_RETRY_S = 5.0  # after a failure; sooner than /readyz would fail
SWEEP_WITHIN_S = 5.0  # per mode; the list of workers that it uses must be newer than SETTLED_IN


class Presence:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._session: asyncpg.Connection | None = None
        self._id: int | None = None
        self._absent_since: dict[int, float] = {}
        self.taken_over = 0

    @property
    def worker_id(self) -> int:
        assert self._id is not None, "register() comes first"
        return self._id

    @property
    def session_is_open(self) -> bool:
        """Whether this worker is registered and its session is open, as far as known."""
        return self._id is not None and self._session is not None and not self._session.is_closed()

    async def register(self) -> None:
        """Registers this worker. Call it before the first lease is taken."""
        await self._ensure_session()

    async def run(self, stop: asyncio.Event) -> None:
        sweeping = asyncio.create_task(self._sweep_repeatedly(stop))
        try:
            while not stop.is_set():
                await through_outages(stop, "check other workers", self.check, RECONNECT_WITHIN_S)
                await sleep_unless(stop, CHECK_EVERY_S)
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])
        await through_outages(stop, "release leases", self._leave)

    def close(self) -> None:
        """Ends the session without releasing leases, for a caller whose `run` did not end: other workers take over."""
        if self._session is not None:
            self._session.terminate()

    async def check(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._check()
        except TimeoutError:
            self.close()  # the connection is dead: the server has ended the session, or will
            raise

    async def _check(self) -> None:
        session = await self._ensure_session()
        now = asyncio.get_running_loop().time()
        absent = await workers.absent(session, self.worker_id)
        self._absent_since = {worker: self._absent_since.get(worker, now) for worker in absent}
        if not absent:
            succeeded("take over from a dead worker")  # by another worker, or it is back
        for worker, since in self._absent_since.items():
            if now - since >= PATIENCE_S:
                with carrying_on("take over from a dead worker", f"worker {worker}"):
                    await self._declare_dead(session, worker)
                if session.is_closed():
                    raise ConnectionResetError("the presence session of this worker was lost")

    async def sweep(self) -> bool:
        """Releases the leases of unregistered workers; False if a mode failed."""
        swept = 0
        for mode in Mode:
            with carrying_on(f"sweep {mode} deliveries"):
                async with asyncio.timeout(SWEEP_WITHIN_S):
                    await self._sweep(mode)
                swept += 1
        return swept == len(Mode)

    async def _sweep_repeatedly(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            swept = await self.sweep()
            await sleep_unless(stop, SWEEP_EVERY_S if swept else SWEEP_RETRY_S)

    async def _ensure_session(self) -> asyncpg.Connection:
        """Returns the session that this worker's row names, after reconnecting or registering again if needed."""
        if self._session is None or self._session.is_closed():
            self._session = await connect_to_core(
                self._database, f"{self._name} presence", silent_for=SILENT_FOR
            )
            await workers.mark(self._session)
        if self._id is None or not await workers.hold(self._session, self._id):
            self._id = await workers.register(self._session, self._name)
            _logger.info("registered as worker %d", self._id)
        return self._session

    async def _declare_dead(self, session: asyncpg.Connection, worker: int) -> None:
        async with session.transaction():
            name = await workers.lock_absent(session, worker)
            if name is not None:
                await self._end_sessions(name)
                await self._take_over([worker])
                await workers.forget(session, worker)

    async def _sweep(self, mode: Mode) -> None:
        registered = await workers.registered(self._database.core)
        count = await deliveries.release_orphans(self._database.data(mode), registered)
        if count:
            _logger.warning("released %d %s deliveries that were leased to unregistered workers", count, mode)

    async def _end_sessions(self, name: str) -> None:
        """Ends the dead worker's sessions first: their locks would block this take-over, and every consumer."""
        for mode in Mode:
            still = timedelta(seconds=PATIENCE_S)
            count = await workers.end_sessions(self._database.data(mode), name, still)
            if count:
                _logger.warning("ended %d stuck %s sessions of %s", count, mode, name)

    async def _take_over(self, dead: Sequence[int]) -> None:
        for mode in Mode:
            count = await deliveries.take_over(self._database.data(mode), dead)
            if count:
                self.taken_over += count
                _logger.warning("took over %d %s deliveries of worker %s", count, mode, dead)

    async def _leave(self) -> None:
        """Releases the leases that are left after the drain, so that no other worker must find them."""
        if self._session is not None and not self._session.is_closed() and self._id is not None:
            await self._take_over([self._id])
            await workers.forget(self._session, self._id)
            await self._session.close()
