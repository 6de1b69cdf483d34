"""Taking strong locks on tables that workers and producers use all the time.

A statement that waits for such a lock makes everybody wait who comes after it. So it waits briefly, lets the others
pass, and tries again, until it finds a moment without a long transaction in its way.
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
PATIENCE_S = 600.0
_LINE_EVERY_S = 10.0
_SQL = load("indexes")


async def with_lock_retries(
    owner: asyncpg.Connection, what: str, action: Callable[[], Awaitable[T]], progress: Progress
) -> T:
    """Runs `action` in a transaction that waits briefly for each lock, and again when it did not get one.

    Raises Unavailable after ten minutes; nothing of the action is left behind then.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    next_line = 0.0
    while True:
        try:
            async with owner.transaction():
                await owner.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S * 1000:.0f}ms'")
                return await action()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            in_the_way = await _in_the_way(owner)
            if loop.time() > until:
                raise Unavailable(
                    f"{what} did not get a lock within {PATIENCE_S / 60:.0f} minutes ({error.message}){in_the_way}: "
                    "end that transaction, then run duro migrate again, which continues with this file."
                ) from None
            if loop.time() >= next_line:
                progress(f"{what}: waiting for a lock{in_the_way}")
                next_line = loop.time() + _LINE_EVERY_S
        await asyncio.sleep(random.uniform(0.5, 1.5) * LOCK_TIMEOUT_S)  # noqa: S311  not a secret


async def _in_the_way(owner: asyncpg.Connection) -> str:
    for row in await owner.fetch(_SQL["oldest_transaction"]):
        return f" (process {row['pid']} has had a transaction open for {row['seconds']:.0f} s)"
    return ""
