"""Waiting and retrying for polling loops. Correctness depends on polling; a hint only makes the next poll
earlier.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from schema.connections.error_kinds import is_transient
from schema.failures import PartFailures, current_part

T = TypeVar("T")


class PollTimer:
    """Times polls: no pause while there is work, then growing intervals up to `most` seconds."""

    def __init__(self, first: float, most: float, growth: float = 1.5) -> None:
        self._first = first
        self._most = most
        self._growth = growth
        self._interval = first
        self._next_at_most = most
        self._hint = asyncio.Event()

    def hint(self) -> None:
        """Makes the next poll immediate, because there may be work."""
        self._hint.set()

    def no_later_than(self, seconds: float) -> None:
        """Limits the wait for the next poll, and only that one."""
        self._next_at_most = min(self._next_at_most, seconds)

    async def wait(self, *, found: bool) -> bool:
        """Waits for the next poll. Returns whether there was a hint."""
        interval, self._next_at_most = min(self._interval, self._next_at_most), self._most
        if found:
            self._interval = self._first
            await asyncio.sleep(0)
            return self._take_hint()
        try:
            async with asyncio.timeout(interval):
                await self._hint.wait()
        except TimeoutError:
            self._interval = min(self._most, self._interval * self._growth)
        else:
            self._interval = self._first
        return self._take_hint()

    def _take_hint(self) -> bool:
        hinted = self._hint.is_set()
        self._hint.clear()
        return hinted


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps until the time has passed or `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def through_outages(
    stop: asyncio.Event,
    what: str,
    operation: Callable[[], Awaitable[T]],
    longest_wait_s: float = 5.0,
    *,
    conclusive: Callable[[T], bool] = lambda _result: True,
) -> T | None:
    """Returns the operation's result. Retries transient errors with jittered backoff and reports each
    (failures.py).

    Returns None when `stop` is set first. Other errors are raised immediately. `conclusive`: whether a result
    shows that the operation does not fail any more. That it is another worker's turn does not: several that
    fail in turns would all seem well.
    """
    part = current_part()
    try:
        result = (
            await operation()
        )  # the common case: the retry machinery took a fifth of an idle worker's CPU time
    except Exception as error:
        if not is_transient(error):
            part.note_raised(what, error)
            raise
        part.failed(what, error)
    else:
        if part.any and conclusive(result):
            part.succeeded(what)
        return result
    return await _retry(stop, part, what, operation, longest_wait_s, conclusive)


async def _retry(
    stop: asyncio.Event,
    part: PartFailures,
    what: str,
    operation: Callable[[], Awaitable[T]],
    longest_wait_s: float,
    conclusive: Callable[[T], bool],
) -> T | None:
    async def attempt() -> T:
        try:
            result = await operation()
        except Exception as error:
            if is_transient(error):
                part.failed(what, error)
            else:
                part.note_raised(what, error)
            raise
        if conclusive(result):
            part.succeeded(what)
        return result

    async def pause(seconds: float) -> None:
        await sleep_unless(stop, seconds)

    await pause(random.uniform(0, 0.05))  # noqa: S311  jitter
    if stop.is_set():
        return None
    retrying = AsyncRetrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.05, max=longest_wait_s),
        stop=lambda _state: stop.is_set(),
        sleep=pause,
        retry_error_callback=lambda _state: None,
    )
    result: T | None = await retrying(attempt)
    return result
