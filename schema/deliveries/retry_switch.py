"""The operator's switch that stops one mode's lane `retry` (retries, replays, backfills) in every worker."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schema.connections.database import Executor
from schema.queries import load

_SQL = load("switches")
COUNT_LIMIT: Final = 100_000


@dataclass(frozen=True, slots=True)
class RetryStatus:
    paused_at: datetime | None
    """None: they are sent."""
    waiting: int
    """Deliveries in the lane, due or not. COUNT_LIMIT means that many or more."""


async def retries(data: Executor) -> RetryStatus:
    row = await data.fetchrow(_SQL["retries"], COUNT_LIMIT)
    assert row is not None
    return RetryStatus(**row)


async def retries_paused(data: Executor) -> bool:
    return bool(await data.fetchval(_SQL["retries_paused"]))


async def pause_retries(data: Executor) -> bool:
    """False when they were paused already."""
    return bool(await data.fetchval(_SQL["pause_retries"]))


async def resume_retries(data: Executor) -> bool:
    """False when they were not paused."""
    return bool(await data.fetchval(_SQL["resume_retries"]))
