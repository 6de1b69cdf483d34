"""The one contract of every long-lived thing, as a stress test that each of them passes.

`run(stop)` works until `stop` is set and returns, whenever that is: at once, during the start, after some work. It can be
run again, and cancelled at any moment. Nothing hangs, nothing is raised but the cancellation, and no task is left behind.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

_ENDS_WITHIN_S = 10.0


class Runs(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


async def stress_lifecycle(part: Runs, *, turns: int = 12, work_s: float = 0.05) -> None:
    await _stopped_before_it_ran(part)
    for turn in range(turns):
        await _stopped_after_some_turns_of_the_loop(part, turn)
        async with _leaving_no_task():
            await _cancelled_after_some_turns_of_the_loop(part, turn)
    async with _leaving_no_task():
        await _stopped_while_at_work(part, work_s)
    await _stopped_before_it_ran(part)


@asynccontextmanager
async def _leaving_no_task() -> AsyncIterator[None]:
    """Every task that is started within ends soon afterwards."""
    before = asyncio.all_tasks()
    yield
    if left := asyncio.all_tasks() - before:
        _done, pending = await asyncio.wait(left, timeout=_ENDS_WITHIN_S)
        assert not pending, "it left tasks behind"


async def _ends(work: Awaitable[None]) -> None:
    async with asyncio.timeout(_ENDS_WITHIN_S):
        await work


async def _stopped_before_it_ran(part: Runs) -> None:
    stop = asyncio.Event()
    stop.set()
    await _ends(part.run(stop))


async def _stopped_after_some_turns_of_the_loop(part: Runs, turns: int) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(part.run(stop))
    for _ in range(turns):
        await asyncio.sleep(0)
    stop.set()
    await _ends(task)


async def _cancelled_after_some_turns_of_the_loop(part: Runs, turns: int) -> None:
    task = asyncio.create_task(part.run(asyncio.Event()))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await _ends(task)
    assert task.cancelled() or task.exception() is None


async def _stopped_while_at_work(part: Runs, work_s: float) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(part.run(stop))
    done, _ = await asyncio.wait([task], timeout=work_s)
    assert not done, "it ended before it was told to"
    stop.set()
    await _ends(task)
