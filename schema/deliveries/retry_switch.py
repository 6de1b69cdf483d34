"""The operator's switch of one mode: whether what is not fresh (retries, replays, backfills) is sent, by any worker."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schema.connections.database import Executor
from schema.queries import load

_SQL = load("switches")
COUNT_LIMIT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Retries:
    paused_at: datetime | None
    """None: they go."""
    waiting: int
    """For an attempt that is not their first, due or not; COUNT_LIMIT stands for as many and more."""


async def retries(data: Executor) -> Retries:
    row = await data.fetchrow(_SQL["retries"], COUNT_LIMIT)
    assert row is not None
    return Retries(**row)


async def retries_paused(data: Executor) -> bool:
    return bool(await data.fetchval(_SQL["retries_paused"]))


async def pause_retries(data: Executor) -> bool:
    """Whether they went until now."""
    return bool(await data.fetchval(_SQL["pause_retries"]))


async def resume_retries(data: Executor) -> bool:
    """Whether they stood still until now."""
    return bool(await data.fetchval(_SQL["resume_retries"]))
