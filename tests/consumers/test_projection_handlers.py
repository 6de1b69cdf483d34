"""A projection slows down while deliveries have a backlog, and never stops entirely."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from consumers import projection_handlers
from consumers.projection_handlers import ProjectionHandler
from schema.connections.database import Connection
from schema.event_log.log import LoggedEvent


class Nothing:
    name = "nothing"

    async def project(self, tx: Connection, generation: int, events: Sequence[LoggedEvent]) -> None: ...


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Records the length of each rest, without waiting."""
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return rests


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time, as its only element."""
    now = [100.0]
    monkeypatch.setattr(projection_handlers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(
    ("others", "worked", "rest"), [(True, 0.1, 0.3), (True, 5.0, 1.0), (False, 0.1, None)]
)
async def test_projections_yield_to_a_delivery_backlog(
    slept: list[float], clock: list[float], others: bool, worked: float, rest: float | None
) -> None:
    serving = ProjectionHandler(Nothing(), gather_s=0.2, others_first=lambda: others)
    await serving.ready(behind=False)
    assert slept == [0.2], "no backlog is known yet"
    clock[0] += worked
    await serving.ready(behind=True)
    assert slept[1:] == ([] if rest is None else [pytest.approx(rest)])
