"""Compares the main shape's throughput with and without a condition: a long history, an open transaction, a second
worker.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from statistics import median
from typing import Any, Final

from service.bench.bench_database import Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.calibration import deliveries_for, plain_drain
from service.bench.drain import Drain, drain
from service.bench.load.delivery_history_fill import fill_history
from service.bench.report.measurement import AtLeast, Measurement
from service.bench.report.numbers import ratio, ratios

HISTORY_AIM: Final = AtLeast(0.95)
OPEN_AIM: Final = AtLeast(0.9)
MAIN: Final = Shape()

Measure = Callable[[], Awaitable[Drain]]


async def history(setup: BenchSetup, row: str) -> list[Measurement]:
    async with bench_database(setup, MAIN) as old:
        filled_s = await fill_history(old, setup.scale.history, "delivered", old.tenants)

        async def with_history() -> Drain:
            return await drain(old, await deliveries_for(setup, MAIN), note="with a history")

        return await _compare(
            setup,
            with_history,
            Measurement(
                row,
                f"deliveries/s with {setup.scale.history:,} past deliveries",
                "with none",
                None,
                HISTORY_AIM,
                figures={"past_deliveries": setup.scale.history, "filled_s": filled_s},
            ),
        )


async def open_transaction(setup: BenchSetup, row: str) -> list[Measurement]:
    async def beside_transaction() -> Drain:
        async with AsyncExitStack() as stack:
            bench = await stack.enter_async_context(bench_database(setup, MAIN))
            idle = await stack.enter_async_context(setup.scratch.connect(bench.name))
            await stack.enter_async_context(idle.transaction())
            await idle.execute("SELECT pg_current_xact_id()")
            return await drain(bench, await deliveries_for(setup, MAIN), note="beside an open transaction")

    what = "deliveries/s while another transaction stays open"
    return await _compare(setup, beside_transaction, Measurement(row, what, "without", None, OPEN_AIM))


async def two_workers(setup: BenchSetup, row: str) -> list[Measurement]:
    async def two() -> Drain:
        async with bench_database(setup, MAIN) as bench:
            return await drain(bench, await deliveries_for(setup, MAIN), workers=2, note="two workers")

    return await _compare(setup, two, Measurement(row, "deliveries/s of two workers", "of one", None))


async def _compare(setup: BenchSetup, measure: Measure, form: Measurement) -> list[Measurement]:
    """Returns the form with its values filled in."""
    without, with_it = [], []
    for _ in range(setup.scale.pairs):
        without.append(await plain_drain(setup, MAIN, await deliveries_for(setup, MAIN)))
        with_it.append(await measure())
    with_rate, without_rate = median(d.rate for d in with_it), median(d.rate for d in without)
    figures: Mapping[str, Any] = {
        **form.figures,
        "with_per_s": [d.rate for d in with_it],
        "without_per_s": [d.rate for d in without],
        "with_postgres_us": median(d.cpu.postgres for d in with_it),
        "without_postgres_us": median(d.cpu.postgres for d in without),
        "deliveries": with_it[-1].deliveries,
    }
    return [
        replace(
            form,
            value=ratio(with_rate, without_rate),
            figures=figures,
            summary=f"{with_rate:,.0f}/s ; {without_rate:,.0f}/s",
            rounds=ratios([d.rate for d in with_it], [d.rate for d in without]),
        )
    ]
