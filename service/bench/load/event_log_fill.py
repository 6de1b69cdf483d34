"""Fills the event log as a billing product would: the catalog's event types in the proportions of a business
year.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from schema.event_catalog import catalog
from service.bench.bench_database import SQL, BenchDatabase

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


async def fill_event_log(bench: BenchDatabase, events: int) -> None:
    """Writes events with positions that no consumer has applied. No worker may have run yet."""
    steps = iter(range(0, events, _STEP))
    async with asyncio.TaskGroup() as filling:
        for _ in range(_SESSIONS):
            filling.create_task(_fill(bench, events, steps))
    await bench.owner.execute(SQL["advance_sequencer"], events)
    bench.setup.progress(f"vacuuming {events:,} events")
    await bench.owner.execute("VACUUM (ANALYZE)", timeout=_VACUUM_WITHIN_S)


async def _fill(bench: BenchDatabase, events: int, steps: Iterator[int]) -> None:
    types = [name for name, count in _OF_100.items() for _ in range(count)]
    data = [orjson.dumps(_example(name)).decode() for name in types]
    began = time.monotonic()
    async with bench.setup.scratch.connect(bench.name) as session:
        month = await session.fetchrow(SQL["month"])
        assert month is not None
        statement = await session.prepare(SQL["event_log_step"])
        for done in steps:
            await statement.fetchval(
                list(bench.tenants),
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
            bench.setup.progress(f"writing a log: {done:,} of {events:,} events, {rate:,.0f}/s")


def _example(name: str) -> dict[str, Any]:
    return dict(catalog()[name].example)
