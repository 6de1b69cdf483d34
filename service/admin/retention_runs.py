"""Plans and runs retention of old months in one mode or both, through the owner's connection."""

from collections.abc import AsyncIterator, Sequence

import asyncpg

from schema.connections.database import connect_as_owner
from schema.connections.owner_login import refuse_other_logins
from schema.modes import Mode
from schema.retention.retention_rules import Ages
from schema.retention.retention_run import Outcome, Progress, RetentionRun, exclusive_run


async def _log_in(url: str) -> asyncpg.Connection:
    owner = await connect_as_owner(url)
    try:
        await refuse_other_logins(owner, "duro retention")
    except BaseException:
        await owner.close()
        raise
    return owner


async def plan(url: str, modes: Sequence[Mode], ages: Ages, progress: Progress) -> AsyncIterator[Outcome]:
    """Yields what `run` would do now. It changes nothing, and works while a run is in progress."""
    owner = await _log_in(url)
    try:
        for mode in modes:
            async for outcome in RetentionRun(owner, mode, ages, progress=progress).plan():
                yield outcome
    finally:
        await owner.close()


async def run(url: str, modes: Sequence[Mode], ages: Ages, progress: Progress) -> AsyncIterator[Outcome]:
    """Raises Conflict when another run is in progress, or other sessions block it. Finished months stay finished."""
    lock_holder = await _log_in(url)
    try:
        async with exclusive_run(lock_holder):
            owner = await _log_in(url)
            try:
                for mode in modes:
                    async for outcome in RetentionRun(owner, mode, ages, progress=progress).run():
                        yield outcome
            finally:
                await owner.close()
    finally:
        await lock_holder.close()
