"""Shows that this worker lives, and takes over from those that do not.

A worker is a row in `workers` and a session that holds an advisory lock on it. No clock and no heartbeat: when
the process dies, or its host vanishes (keepalives tell the server within about ten seconds), the server ends
the session and the lock is free. Each worker looks every second:

      lock free ──seen so for `patience`──► take the lock ──► leases of that worker become due ──► forget the row
                 │                              │ refused: it is back, or another is at it
                 └─ back in time (a restart of the database frees all locks at once): nothing happens

Whoever takes over holds the dead one's lock meanwhile, so the two cannot both act. A worker that finds its row
gone was taken for dead: it registers anew, and what it still sends under old leases is fenced off.
"""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from schema import deliveries, workers
from schema.database import Database, connect_to_core
from schema.modes import Mode
from schema.polling import sleep_unless, through_outages

_logger = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
PATIENCE_S = 3.0
BACK_WITHIN_S = 1.0  # the longest wait between two tries to come back, less than the others' patience
ASK_AGAIN_S = 0.1
ANSWER_WITHIN_S = 10.0
SWEEP_EVERY_S = 30.0  # for leases that outlived every deadline, whoever holds them


class Presence:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._guard: asyncpg.Connection | None = None
        self._id: int | None = None
        self._absent_since: dict[int, float] = {}
        self._sweep_at = 0.0
        self.taken_over = 0

    @property
    def worker_id(self) -> int:
        assert self._id is not None, "register() comes first"
        return self._id

    async def register(self) -> None:
        """Before the first lease is taken."""
        await self._stand_guard()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await through_outages(stop, "presence", self.look, BACK_WITHIN_S)
            await sleep_unless(stop, LOOK_EVERY_S)
        await through_outages(stop, "presence", self._leave)

    async def look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._look()
        except TimeoutError:
            if self._guard is not None:
                self._guard.terminate()  # cut off without a word: the server has ended this session, or will
            raise

    async def _look(self) -> None:
        guard = await self._stand_guard()
        now = asyncio.get_running_loop().time()
        absent = await workers.absent(guard, self.worker_id)
        self._absent_since = {worker: self._absent_since.get(worker, now) for worker in absent}
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            await self._take_over([])
        for worker, since in self._absent_since.items():
            if now - since >= PATIENCE_S and await workers.lock(guard, worker):
                try:
                    await self._take_over([worker])
                    await workers.forget(guard, worker)
                finally:
                    await workers.unlock(guard, worker)

    async def _stand_guard(self) -> asyncpg.Connection:
        """The session that holds our lock, made again when it was lost."""
        if self._guard is None or self._guard.is_closed():
            self._guard = await connect_to_core(self._database, f"{self._name} presence")
        if self._id is None or not await self._is_still(self._guard, self._id):
            self._id = await workers.register(self._guard, self._name)
            _logger.info("registered as worker %d", self._id)
        return self._guard

    async def _is_still(self, guard: asyncpg.Connection, own_id: int) -> bool:
        """Whether nobody took us for dead. The lock is ours already, or free again after a lost session.

        While it is not free, the server has not noticed yet that the session is lost, or somebody is taking over:
        soon it is free, or the row is gone.
        """
        while await workers.is_registered(guard, own_id):
            if await workers.hold(guard, own_id):
                return True
            await asyncio.sleep(ASK_AGAIN_S)
        return False

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
