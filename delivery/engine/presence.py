"""Shows that this worker lives, and takes over from those that do not.

A worker is a row in `workers` that names a session of the database. When the process dies, the server ends the
session at once; when it freezes, or its host or the network vanishes, nothing is asked in that session any more, and
the server ends it after `SILENT_FOR`: a timer of the server's, which needs neither a clock nor a network in common.
A pooler in session mode keeps the session of a client that has gone for the next one. It resets it first, and with
that goes the mark, an advisory lock: a session without the mark counts as gone.
Each worker looks every second:

      session gone ──seen so for `patience`──► lock the row ──► end what stands still ──► its leases become due ──► forget the row
                 │                                 │ it is back, or another worker is at it: nothing happens
                 └─ back in time (a restart of the database ends all sessions at once): its row names the new one

Whoever takes over has the dead one's row locked meanwhile, so it cannot come back in between. A worker that finds
its row gone was taken for dead: it registers anew, and what it still sends under old leases is fenced off. Leases
in a name that nobody bears (their last commit landed after the take-over, or somebody had them locked) are found by
a sweep, a task of its own: while it lasts nothing would be asked in the session, and the others would see us dead.
For the same reason no error of a sweep or of one take-over ends the looking.
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
LOOK_EVERY_S = 1.0
PATIENCE_S = 3.0
SILENT_FOR = "3s"  # with the patience and two looks less than the ten seconds that a take-over may take
BACK_WITHIN_S = 1.0  # the longest wait between two tries to come back, less than the others' patience
ANSWER_WITHIN_S = 10.0
SWEEP_EVERY_S = 30.0
SWEEP_AGAIN_S = 5.0  # after a failure: less than it takes to be not ready
SWEEP_WITHIN_S = 5.0  # each mode; the living it has read of are to be known better than SETTLED_IN ago


class Presence:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._guard: asyncpg.Connection | None = None
        self._id: int | None = None
        self._absent_since: dict[int, float] = {}
        self.taken_over = 0

    @property
    def worker_id(self) -> int:
        assert self._id is not None, "register() comes first"
        return self._id

    @property
    def stands(self) -> bool:
        """Whether the session that shows that this worker lives is there, as far as known."""
        return self._id is not None and self._guard is not None and not self._guard.is_closed()

    async def register(self) -> None:
        """Before the first lease is taken."""
        await self._stand_guard()

    async def run(self, stop: asyncio.Event) -> None:
        sweeping = asyncio.create_task(self._sweep_again_and_again(stop))
        try:
            while not stop.is_set():
                await through_outages(stop, "look for dead workers", self.look, BACK_WITHIN_S)
                await sleep_unless(stop, LOOK_EVERY_S)
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])
        await through_outages(stop, "give leases back", self._leave)

    def close(self) -> None:
        """For whoever does not `run` to the end: the session is gone, the leases are for others to find."""
        if self._guard is not None:
            self._guard.terminate()

    async def look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._look()
        except TimeoutError:
            self.close()  # cut off without a word: the server has ended this session, or will
            raise

    async def _look(self) -> None:
        guard = await self._stand_guard()
        now = asyncio.get_running_loop().time()
        absent = await workers.absent(guard, self.worker_id)
        self._absent_since = {worker: self._absent_since.get(worker, now) for worker in absent}
        if not absent:
            succeeded("take over from a dead worker")  # by somebody else, or it is back
        for worker, since in self._absent_since.items():
            if now - since >= PATIENCE_S:
                with carrying_on("take over from a dead worker", f"worker {worker}"):
                    await self._declare_dead(guard, worker)
                if guard.is_closed():
                    raise ConnectionResetError("the session that shows that this worker lives was lost")

    async def sweep(self) -> bool:
        """Whether both modes could be swept."""
        swept = 0
        for mode in Mode:
            with carrying_on(f"sweep {mode} deliveries"):
                async with asyncio.timeout(SWEEP_WITHIN_S):
                    await self._sweep(mode)
                swept += 1
        return swept == len(Mode)

    async def _sweep_again_and_again(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            swept = await self.sweep()
            await sleep_unless(stop, SWEEP_EVERY_S if swept else SWEEP_AGAIN_S)

    async def _stand_guard(self) -> asyncpg.Connection:
        """The session that our row names, made again when it was lost."""
        if self._guard is None or self._guard.is_closed():
            self._guard = await connect_to_core(
                self._database, f"{self._name} presence", silent_for=SILENT_FOR
            )
            await workers.mark(self._guard)
        if self._id is None or not await workers.hold(self._guard, self._id):
            self._id = await workers.register(self._guard, self._name)
            _logger.info("registered as worker %d", self._id)
        return self._guard

    async def _declare_dead(self, guard: asyncpg.Connection, worker: int) -> None:
        async with guard.transaction():
            name = await workers.lock_absent(guard, worker)
            if name is not None:
                await self._end_sessions(name)
                await self._take_over([worker])
                await workers.forget(guard, worker)

    async def _sweep(self, mode: Mode) -> None:
        living = await workers.registered(self._database.core)
        count = await deliveries.release_orphans(self._database.data(mode), living)
        if count:
            _logger.warning("%d %s deliveries were leased to nobody; they are due again", count, mode)

    async def _end_sessions(self, name: str) -> None:
        """First, because their locks would be in the way: of this take-over, and of every consumer."""
        for mode in Mode:
            still = timedelta(seconds=PATIENCE_S)
            count = await workers.end_sessions(self._database.data(mode), name, still)
            if count:
                _logger.warning("ended %d %s sessions that %s left in mid-transaction", count, mode, name)

    async def _take_over(self, dead: Sequence[int]) -> None:
        for mode in Mode:
            count = await deliveries.take_over(self._database.data(mode), dead)
            if count:
                self.taken_over += count
                _logger.warning("took over %d %s deliveries of worker %s", count, mode, dead)

    async def _leave(self) -> None:
        """Gives back what a drain left over, so that others need not find out."""
        if self._guard is not None and not self._guard.is_closed() and self._id is not None:
            await self._take_over([self._id])
            await workers.forget(self._guard, self._id)
            await self._guard.close()
