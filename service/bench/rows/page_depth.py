"""Compares page 500 of a tenant's deliveries with page 1, with the query of `duro delivery list`."""

import time
from statistics import median
from typing import Final
from uuid import UUID

from schema.deliveries.delivery_history import list_deliveries
from schema.pages import DEFAULT_LIMIT, After
from service.bench.bench_database import MODE, BenchDatabase, Shape, bench_database
from service.bench.bench_setup import BenchSetup
from service.bench.load.delivery_history_fill import fill_history
from service.bench.report.measurement import AtMost, Measurement
from service.bench.report.numbers import percentile, ratio

AIM: Final = AtMost(1.1)
FAR: Final = 500
_REPEATS: Final = 1_000


async def pages(setup: BenchSetup, row: str) -> list[Measurement]:
    async with bench_database(setup, Shape(tenants=4)) as bench:
        await fill_history(bench, setup.scale.pages_of, "delivered", bench.tenants)
        tenant = bench.tenants[0]
        setup.progress(f"walking to page {FAR}")
        far = After()
        for _ in range(FAR - 1):
            far = After.read(await _next_cursor(bench, tenant, far))
        first, last = [], []
        for _ in range(_REPEATS):  # in turn, so that noise affects both
            first.append(await _took_ms(bench, tenant, After()))
            last.append(await _took_ms(bench, tenant, far))
    return [
        Measurement(
            row,
            f"time of page {FAR} of a list of deliveries, {DEFAULT_LIMIT} to a page",
            "page 1",
            ratio(median(last), median(first)),
            AIM,
            figures={
                f"page_{FAR}_ms": median(last),
                "page_1_ms": median(first),
                f"page_{FAR}_p99_ms": percentile(last, 99),
                "page_1_p99_ms": percentile(first, 99),
            },
            summary=f"{median(last):.2f} ms ; {median(first):.2f} ms",
        )
    ]


async def _next_cursor(bench: BenchDatabase, tenant: UUID, after: After) -> str | None:
    page = await list_deliveries(bench.database.data(MODE), tenant, None, None, after, DEFAULT_LIMIT)
    return page.next_cursor


async def _took_ms(bench: BenchDatabase, tenant: UUID, after: After) -> float:
    began = time.perf_counter()
    await _next_cursor(bench, tenant, after)
    return (time.perf_counter() - began) * 1000
