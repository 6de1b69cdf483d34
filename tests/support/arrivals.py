"""A list that tests can wait on, so that they wait for a signal and never for a clock."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
PATIENCE_S = 15.0  # upper limit of a wait; far longer than it takes


class Arrivals(Generic[T]):
    def __init__(self) -> None:
        self._items: list[T] = []
        self._news = asyncio.Event()

    def add(self, item: T) -> None:
        self._items.append(item)
        self._news.set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __getitem__(self, index: int) -> T:
        return self._items[index]

    async def until(self, holds: Callable[[Sequence[T]], bool], within_s: float = PATIENCE_S) -> None:
        """Waits until `holds` accepts all items. Fails with their number."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._news.clear()
                    if holds(self._items):
                        return
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self._items)} items arrived without meeting the condition") from None

    async def count(self, least: int, within_s: float = PATIENCE_S) -> Sequence[T]:
        """Waits for `least` items and returns them."""
        try:
            await self.until(lambda items: len(items) >= least, within_s)
        except AssertionError:
            raise AssertionError(f"{len(self._items)} of {least} arrived") from None
        return self._items[:least]
