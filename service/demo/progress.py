"""What can be seen while the demo runs: moving counters on a terminal, a line now and then elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.demo.board import Board

_REDRAW_EVERY_S: Final = 0.1
_LINE_EVERY_S: Final = 2.0


@asynccontextmanager
async def no_progress(_board: Board) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def shown_progress(board: Board, console: Console, total: int) -> AsyncIterator[None]:
    if not console.is_terminal:
        async with _repeating(lambda: console.print(_line(board, total)), _LINE_EVERY_S):
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
        async with _repeating(lambda: _draw(bars, committed, delivered, board), _REDRAW_EVERY_S):
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


def _line(board: Board, total: int) -> str:
    return (
        f"{len(board.committed)} of {total} events committed, {len(board.rolled_back)} rolled back; "
        f"{len(board.delivered)} of {len(board.expected)} deliveries made, {len(board.retried)} retried"
    )


def _draw(bars: Progress, committed: TaskID, delivered: TaskID, board: Board) -> None:
    bars.update(
        committed,
        completed=len(board.committed),
        counts=f"{len(board.committed):,} events, {len(board.rolled_back)} rolled back",
    )
    bars.update(
        delivered,
        completed=len(board.delivered),
        total=len(board.expected),
        counts=f"{len(board.delivered):,} deliveries, {len(board.retried)} retried",
    )
