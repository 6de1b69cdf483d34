"""A log as a billing product writes it: the catalog's events, each about as often as in a year of business."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from schema.event_catalog import catalog
from service.bench.stage import SQL, Stage

SUBSCRIPTIONS: Final = 50_000
_OF_100: Final = {
    "invoice_created": 33,
    "subscription_payment_success": 29,
    "subscription_payment_failed": 12,
    "subscription_created": 5,
    "subscription_activated": 4,
    "subscription_updated": 4,
    "subscription_past_due": 4,
    "subscription_payment_recovered": 3,
    "subscription_recovered": 3,
    "subscription_cancelled": 2,
    "subscription_unpaid": 1,
}
_STEP: Final = 20_000
_SESSIONS: Final = 2
_STEP_WITHIN_S: Final = 120.0
_VACUUM_WITHIN_S: Final = 900.0


async def make_log(stage: Stage, events: int) -> None:
    """Before any worker has run: events with positions, which no consumer has applied."""
    steps = iter(range(0, events, _STEP))
    async with asyncio.TaskGroup() as filling:
        for _ in range(_SESSIONS):
            filling.create_task(_fill(stage, events, steps))
    await stage.owner.execute(SQL["past_sequenced"], events)
    stage.ground.watch(f"vacuuming {events:,} events")
    await stage.owner.execute("VACUUM (ANALYZE)", timeout=_VACUUM_WITHIN_S)


async def _fill(stage: Stage, events: int, steps: Iterator[int]) -> None:
    types = [name for name, count in _OF_100.items() for _ in range(count)]
    data = [orjson.dumps(_example(name)).decode() for name in types]
    began = time.monotonic()
    async with stage.ground.scratch.connect(stage.name) as session:
        month = await session.fetchrow(SQL["month"])
        assert month is not None
        statement = await session.prepare(SQL["past_events"])
        for done in steps:
            await statement.fetchval(
                list(stage.tenants),
                types,
                data,
                done + 1,
                min(_STEP, events - done),
                month["since"],
                month["until"],
                events,
                SUBSCRIPTIONS,
                timeout=_STEP_WITHIN_S,
            )
            rate = (done + _STEP) / max(time.monotonic() - began, 0.001)
            stage.ground.watch(f"writing a log: {done:,} of {events:,} events, {rate:,.0f}/s")


def _example(name: str) -> dict[str, Any]:
    return dict(catalog()[name].example)
