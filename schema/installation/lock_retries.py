"""Takes strong locks on tables that workers and producers use all the time.

A statement that waits for such a lock blocks all later statements on the table. So it waits briefly, then
releases the queue and retries, until no long transaction blocks it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

T = TypeVar("T")
Progress: TypeAlias = Callable[[str], None]

LOCK_TIMEOUT_S = 0.5  # no producer waits longer behind a migration
LOCK_WAIT_LIMIT_S = 600.0
_PROGRESS_EVERY_S = 10.0
_SQL = load("indexes")


async def with_lock_retries(
    owner: asyncpg.Connection, what: str, action: Callable[[], Awaitable[T]], progress: Progress
) -> T:
    """Runs `action` in a transaction that waits briefly for each lock, and retries it when it gets none.

    Raises Unavailable after ten minutes; the action then has no effect.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + LOCK_WAIT_LIMIT_S
    next_progress = 0.0
    while True:
        try:
            async with owner.transaction():
                await owner.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S * 1000:.0f}ms'")
                return await action()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            blocker = await _blocker(owner)
            if loop.time() > until:
                raise Unavailable(
                    f"{what} got no lock within {LOCK_WAIT_LIMIT_S / 60:.0f} minutes ({error.message}){blocker}: "
                    "end that transaction, then run duro migrate again, which continues with this file."
                ) from None
            if loop.time() >= next_progress:
                progress(f"{what}: waiting for a lock{blocker}")
                next_progress = loop.time() + _PROGRESS_EVERY_S
        await asyncio.sleep(random.uniform(0.5, 1.5) * LOCK_TIMEOUT_S)  # noqa: S311  not a secret


async def _blocker(owner: asyncpg.Connection) -> str:
    for row in await owner.fetch(_SQL["oldest_transaction"]):
        return f" (process {row['pid']} has had a transaction open for {row['seconds']:.0f} s)"
    return ""
