"""Inserts attempts, and compares the hourly summaries of endpoints with them."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.connections.database import Executor
from schema.ids import new_id

OUTCOMES: Final = ("ok", "http_status", "timeout", "dns", "connect", "tls", "protocol", "blocked")
_RECORD: Final = """
INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at, outcome, total_ms, settled)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $1::uuid[], $3::uuid[], $4::timestamptz[], $5::boolean[], $6::timestamptz[],
                     $7::text[], $8::real[], $5::boolean[])
"""
_EXPECTED: Final = f"""
SELECT tenant_id, endpoint_id, date_trunc('hour', started_at, 'UTC') AS hour, count(*) AS attempts,
       {", ".join(f"count(*) FILTER (WHERE outcome = '{outcome}') AS {outcome}" for outcome in OUTCOMES)},
       ARRAY(SELECT count(*) FILTER (WHERE outcome IN ('ok', 'http_status') AND latency_bucket(total_ms) = bucket)::integer
               FROM generate_series(0, 65) AS bucket,
                    unnest(array_agg(outcome), array_agg(total_ms)) AS a (outcome, total_ms)
              GROUP BY bucket ORDER BY bucket) AS latency
  FROM webhook_attempts GROUP BY 1, 2, 3
"""


async def record_attempts(
    producer: Executor,
    whose: Sequence[tuple[UUID, UUID]],
    count: int,
    *,
    at: datetime | None = None,
    outcome: str | None = None,
    ms: float | None = None,
) -> None:
    """Inserts that many attempts for these (tenant, endpoint) pairs in turn."""
    rows: list[tuple[Any, ...]] = [
        (
            new_id(),
            *whose[n % len(whose)],
            datetime.now(UTC),
            False,
            at or datetime.now(UTC),
            outcome or random.choice(OUTCOMES),
            10 ** random.uniform(-1, 5) if ms is None else ms,
        )
        for n in range(count)
    ]
    await producer.execute(_RECORD, *zip(*rows, strict=True))


async def differences(owner: asyncpg.Connection) -> list[asyncpg.Record]:
    """Returns the rows that are only in the hours, or only in the summary of the attempts."""
    hours = "SELECT * FROM delivery_hours"
    found: list[asyncpg.Record] = await owner.fetch(
        f"(SELECT 'hours alone', h.* FROM (({hours}) EXCEPT ALL ({_EXPECTED})) h)"
        f" UNION ALL (SELECT 'attempts alone', a.* FROM (({_EXPECTED}) EXCEPT ALL ({hours})) a)"
    )
    return found
