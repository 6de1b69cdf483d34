"""Shows the demo's progress: live counters on a terminal, a line every few seconds elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.demo.observations import Observations

_REDRAW_EVERY_S: Final = 0.1
_LINE_EVERY_S: Final = 2.0


@asynccontextmanager
async def no_progress(_board: Observations) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def show_progress(observed: Observations, console: Console, total: int) -> AsyncIterator[None]:
    if not console.is_terminal:
        async with _repeating(lambda: console.print(_line(observed, total)), _LINE_EVERY_S):
            yield
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        committed = bars.add_task("committed", total=total, counts="")
        delivered = bars.add_task("delivered", total=total, counts="")
        async with _repeating(lambda: _draw(bars, committed, delivered, observed), _REDRAW_EVERY_S):
            yield


@asynccontextmanager
async def _repeating(show: Callable[[], None], every_s: float) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            show()
            await asyncio.sleep(every_s)

    task = asyncio.create_task(repeat())
    try:
        yield
        show()
    finally:
        task.cancel()


def _line(observed: Observations, total: int) -> str:
    return (
        f"{len(observed.committed)} of {total} events committed, {len(observed.rolled_back)} rolled back; "
        f"{len(observed.delivered)} of {len(observed.expected)} deliveries made, {len(observed.retried)} retried"
    )


def _draw(bars: Progress, committed: TaskID, delivered: TaskID, observed: Observations) -> None:
    bars.update(
        committed,
        completed=len(observed.committed),
        counts=f"{len(observed.committed):,} events, {len(observed.rolled_back)} rolled back",
    )
    bars.update(
        delivered,
        completed=len(observed.delivered),
        total=len(observed.expected),
        counts=f"{len(observed.delivered):,} deliveries, {len(observed.retried)} retried",
    )
