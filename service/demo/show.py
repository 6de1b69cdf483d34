"""The demo from first commit to verdict; see the package's docstring for the picture."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from schema.database import Database
from schema.modes import Mode
from service.backbone import Backbone
from service.child_process import ChildProcess
from service.demo.auditing import examine, log_ends
from service.demo.board import Board
from service.demo.merchants import Merchant, enrol, retire
from service.demo.processes import ReceiverProcess, receiver_process, worker_process
from service.demo.producers import Shop, left_open, say
from service.demo.trading import trade
from service.demo.verdict import WORKER_ENDS_WITHIN_S, Evidence, Verdict, judge

PATIENCE_S: Final = 60.0
LEAST_EVENTS: Final = 20
_GREETING: Final = "subscription_created"
_FAREWELL: Final = "subscription_cancelled"

Watch = Callable[[Board], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    verdict: Verdict
    seconds: float
    """From the first producer's start until everything had arrived."""
    logs: Mapping[str, Sequence[str]]
    """The last lines of each process's standard error."""


async def perform(
    base: Backbone, total: int, *, lasting: bool, watch: Watch, patience_s: float = PATIENCE_S
) -> Outcome:
    """`total` events at least, greetings and farewells included; `lasting` when the database outlives the demo.

    Raises Unavailable when the database or the receiver cannot be had, and what the driver raises in between.
    """
    async with AsyncExitStack() as stack:
        show = await _set_up(base, stack, patience_s, lasting=lasting)
        return await show.run(total, watch)


async def _set_up(base: Backbone, stack: AsyncExitStack, patience_s: float, *, lasting: bool) -> "Show":
    await base.migrate(lambda _step: None)
    database = await stack.enter_async_context(
        Database.open(base.url, base.key, name="duro demo", max_per_role=6)
    )
    began_at = await log_ends(database)
    board = Board()
    receiver = await stack.enter_async_context(receiver_process(board.receive))
    merchants = await enrol(database, receiver.url)
    if lasting:  # once the worker has ended
        stack.push_async_callback(retire, database, merchants)
    await receiver.expect(merchants)
    worker = await stack.enter_async_context(worker_process(base))
    return Show(database, board, merchants, receiver, worker, began_at, patience_s)


@dataclass
class Show:
    database: Database
    board: Board
    merchants: Sequence[Merchant]
    receiver: ReceiverProcess
    worker: ChildProcess
    began_at: dict[Mode, int]
    """Where each mode's log ended before."""
    patience_s: float
    cut_short: str | None = field(default=None, init=False)

    @property
    def shops(self) -> list[Shop]:
        return [Shop(merchant, mode) for merchant in self.merchants for mode in Mode]

    async def run(self, total: int, watch: Watch) -> Outcome:
        async with watch(self.board):
            async with left_open(self.database, self.board, Shop(self.merchants[0], Mode.LIVE)):
                await self._say(_GREETING, timed=False)
                await self._delivered()
                started = time.monotonic()
                await self._trade(total - len(self.shops))  # those that say farewell come after it
                await self._delivered()
                seconds = time.monotonic() - started
            await self._say(_FAREWELL)
            await self._delivered()
        return await self._conclude(seconds)

    async def _say(self, type_: str, *, timed: bool = True) -> None:
        if self.cut_short:
            return
        for shop in self.shops:
            await say(self.database, self.board, shop, type_, timed=timed)

    async def _trade(self, total: int) -> None:
        if self.cut_short:
            return
        trading = asyncio.create_task(trade(self.database, self.board, self.shops, total))
        try:
            await self._while_all_run(trading, None)
        finally:
            trading.cancel()
            await asyncio.gather(trading, return_exceptions=True)

    async def _delivered(self) -> None:
        """Waits for what is missing, for as long as there is something new every `patience_s`."""
        while self.board.missing and not self.cut_short:
            self.board.moved.clear()
            await self._while_all_run(asyncio.ensure_future(self.board.moved.wait()), self.patience_s)

    async def _while_all_run(self, work: asyncio.Future[Any], within_s: float | None) -> None:
        """The work's end, unless a process ends before it or time runs out, which cuts the show short."""
        needed = {"worker": self.worker.ended, "receiver": self.receiver.process.ended}
        await asyncio.wait({work, *needed.values()}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return
        work.cancel()
        ended = [f"The {name} ended by itself." for name, task in needed.items() if task.done()]
        self.cut_short = (
            " ".join(ended) or f"Nothing arrived for {within_s:g} s, so the demo stopped waiting."
        )

    async def _conclude(self, seconds: float) -> Outcome:
        status = await self.worker.terminate(WORKER_ENDS_WITHIN_S)
        await self.receiver.process.end()
        audit = await examine(self.database, self.board, [m.id for m in self.merchants], self.began_at)
        board = self.board
        evidence = Evidence(board.committed, board.rolled_back, board.receipts, audit, status, self.cut_short)
        logs = {"worker": list(self.worker.log), "receiver": list(self.receiver.process.log)}
        return Outcome(judge(evidence), seconds, logs)
