"""Old months out of both modes, or one, through the owner's connection."""

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
    """What `run` would do now. Changes nothing, and may be asked while another runs."""
    owner = await _log_in(url)
    try:
        for mode in modes:
            async for outcome in RetentionRun(owner, mode, ages, progress=progress).plan():
                yield outcome
    finally:
        await owner.close()


async def run(url: str, modes: Sequence[Mode], ages: Ages, progress: Progress) -> AsyncIterator[Outcome]:
    """Raises Conflict: another is at work, or somebody is in the way. What it has done so far stays done."""
    keeper = await _log_in(url)
    try:
        async with exclusive_run(keeper):
            owner = await _log_in(url)
            try:
                for mode in modes:
                    async for outcome in RetentionRun(owner, mode, ages, progress=progress).run():
                        yield outcome
            finally:
                await owner.close()
    finally:
        await keeper.close()
