"""Results whose month retention deletes before they are written."""

import asyncio
from uuid import UUID

import asyncpg

from schema.deliveries import deliveries
from tests.support.engine import Engine, running
from tests.support.retention_history import OLD, past
from tests.support.settler_results import claim, delivered, some_claims


async def test_a_late_result_of_a_deleted_month_holds_up_no_other(
    ours: Engine, owner: asyncpg.Connection, tenant: UUID, endpoint: UUID
) -> None:
    """Its delivery was taken over, settled elsewhere, and deleted with the month."""
    await past(ours.pool, tenant, OLD, 1)
    await ours.leave_pending()
    late = await claim(ours, endpoint, 1)
    await deliveries.take_over(ours.pool, [1])
    for table in ("events", "event_log", "webhook_deliveries", "webhook_attempts"):
        await owner.execute(f"DROP TABLE sandbox.{table}_{OLD.suffix}")
    current = await some_claims(ours, tenant, endpoint, 2)
    async with running(ours.settler), asyncio.timeout(10):
        for claimed in (*late, *current):
            ours.settler.put(delivered(claimed))
        await ours.settled.count(3)
    assert [row["status"] for row in await ours.rows()] == ["delivered"] * 2
    assert len(await ours.attempts()) == 2
    assert (ours.settler.settled, ours.settler.fenced_off) == (2, 1)
