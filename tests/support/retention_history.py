"""Creates old months whose events are fully processed, and runs retention on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from schema.connections.database import Pool
from schema.modes import Mode
from schema.retention.retention_rules import Ages, Month
from schema.retention.retention_run import Outcome, RetentionRun
from tests.service.cli.log_work import fan_out
from tests.support.events import sequence_all

__all__ = ["AGES", "OLD", "OLDER", "YOUNG", "attached", "fan_out", "finished", "past", "retire", "summary"]

NOW = datetime.now(UTC)
AGES = Ages(events=timedelta(days=300), deliveries=timedelta(days=300), attempts=timedelta(days=300))
TABLES = ("events", "event_log", "webhook_deliveries", "webhook_attempts")


def month_of(days_ago: int) -> Month:
    return Month((NOW - timedelta(days=days_ago)).date().replace(day=1))


OLDER, OLD, YOUNG = month_of(450), month_of(400), month_of(200)


async def past(data: Pool, tenant: UUID, month: Month, count: int = 3) -> list[UUID]:
    """Records events in that month, without positions."""
    await data.execute("SELECT ensure_past_partitions($1)", month.start)
    return [
        await data.fetchval(
            "SELECT record_event($1::uuid, 'invoice_created', jsonb_build_object('n', $2::int), $3::timestamptz)",
            tenant,
            number,
            month.start + timedelta(days=3, seconds=number),
        )
        for number in range(count)
    ]


async def finished(data: Pool) -> None:
    """Sequences and applies all events, and adds old deliveries with attempts."""
    await sequence_all(data)
    await data.execute(
        "INSERT INTO cursors (consumer, pos) SELECT name, (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1)"
        " FROM consumers"
    )
    await data.execute(
        "INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at,"
        "                                retry_at, attempts, settled_at)"
        " SELECT gen_random_uuid(), tenant_id, gen_random_uuid(), id, type, created_at, 'delivered', NULL, NULL, 1,"
        "        created_at FROM events e"
        "  WHERE NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.event_id = e.id)"
    )
    await data.execute(
        "INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,"
        "                              outcome, total_ms, settled)"
        " SELECT gen_random_uuid(), tenant_id, id, endpoint_id, created_at, false, created_at, 'ok', 1, true"
        "   FROM webhook_deliveries d"
        "  WHERE NOT EXISTS (SELECT FROM webhook_attempts a WHERE a.delivery_id = d.id)"
    )
    while await data.fetchval("SELECT fold_attempts()"):
        pass


async def retire(
    owner: Any, ages: Ages = AGES, *, mode: Mode = Mode.TEST, plan: bool = False, patience_s: float = 10
) -> list[Outcome]:
    run = RetentionRun(owner, mode, ages, patience_s=patience_s)
    return [outcome async for outcome in (run.plan() if plan else run.run())]


def summary(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[str]]:
    """Returns the reasons to keep, by month and kind."""
    return {(str(o.candidate.month), str(o.candidate.kind)): list(o.kept) for o in outcomes}


@dataclass(frozen=True)
class Standing:
    attached: set[str]
    others: set[str]
    """Detached tables that are named like a partition."""


async def standing(owner: asyncpg.Connection, month: Month) -> Standing:
    rows = await owner.fetch(
        "SELECT relname, relispartition FROM pg_class"
        " WHERE relnamespace = 'sandbox'::regnamespace AND relkind = 'r' AND relname LIKE '%' || $1",
        month.suffix,
    )
    return Standing(
        {row["relname"] for row in rows if row["relispartition"]},
        {row["relname"] for row in rows if not row["relispartition"]},
    )


async def attached(owner: asyncpg.Connection, month: Month) -> bool:
    """Returns whether the month's partitions exist. Fails if only some do."""
    found = await standing(owner, month)
    assert found.others == set()
    log = {name for name in found.attached if not name.startswith("activity_g")}
    assert log in (set(), {f"{table}_{month.suffix}" for table in TABLES})
    return bool(log)
