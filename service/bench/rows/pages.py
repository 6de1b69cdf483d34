"""Page 500 of a tenant's list of deliveries against page 1, asked for as `duro delivery list` does."""

import time
from statistics import median
from typing import Final
from uuid import UUID

from schema.delivery_history import list_deliveries
from schema.pages import DEFAULT_LIMIT, After
from service.bench.finding import AtMost, Finding
from service.bench.ground import Ground
from service.bench.numbers import percentile, ratio
from service.bench.past import make_past
from service.bench.stage import MODE, Shape, Stage, stage

AIM: Final = AtMost(1.1)
FAR: Final = 500
_REPEATS: Final = 1_000


async def pages(ground: Ground, row: str) -> list[Finding]:
    async with stage(ground, Shape(tenants=4)) as here:
        await make_past(here, ground.scale.pages_of, "delivered", here.tenants)
        tenant = here.tenants[0]
        ground.watch(f"walking to page {FAR}")
        far = After()
        for _ in range(FAR - 1):
            far = After.read(await _next_cursor(here, tenant, far))
        first, last = [], []
        for _ in range(_REPEATS):  # in turn, so that a noisy moment hits both
            first.append(await _took_ms(here, tenant, After()))
            last.append(await _took_ms(here, tenant, far))
    return [
        Finding(
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
            shown=f"{median(last):.2f} ms ; {median(first):.2f} ms",
        )
    ]


async def _next_cursor(here: Stage, tenant: UUID, after: After) -> str | None:
    page = await list_deliveries(here.database.data(MODE), tenant, None, None, after, DEFAULT_LIMIT)
    return page.next_cursor


async def _took_ms(here: Stage, tenant: UUID, after: After) -> float:
    began = time.perf_counter()
    await _next_cursor(here, tenant, after)
    return (time.perf_counter() - began) * 1000
