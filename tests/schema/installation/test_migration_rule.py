"""No migration after the released baseline blocks workers or producers for long."""

import asyncpg
import pytest

from schema.installation.migrate import migrations
from schema.installation.migration import Index, Kind, Migration
from tests.support.further_migrations import further_migrations
from tests.support.migration_rule import BASELINE, HOT, violations

AFTER_BASELINE = [m for m in migrations() if m.name > BASELINE["core" if m.schema == "core" else "data"]]


async def test_every_migration_after_the_baseline_keeps_the_rule(owner: asyncpg.Connection) -> None:
    assert {f"{m.schema}/{m.name}": await violations(owner, m) for m in AFTER_BASELINE} == {
        f"{m.schema}/{m.name}": [] for m in AFTER_BASELINE
    }


async def test_an_example_of_each_kind_keeps_the_rule(owner: asyncpg.Connection) -> None:
    examples = [m for m in further_migrations() if m.schema == "live"]
    assert {m.kind for m in examples} == set(Kind)
    for example in examples:
        assert await violations(owner, example) == [], example.name
        if example.kind is Kind.TRANSACTION:
            await owner.execute("SET search_path = live")
            await owner.execute(example.statements)


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        (
            "CREATE INDEX x ON webhook_deliveries (tenant_id)",
            "builds an index on webhook_deliveries under a lock",
        ),
        (
            "ALTER TABLE events ADD UNIQUE (id, tenant_id, created_at)",
            "builds an index on events under a lock",
        ),
        (
            "ALTER TABLE webhook_deliveries ALTER COLUMN schedule_attempts TYPE bigint",
            "rewrites webhook_deliveries",
        ),
        (
            "ALTER TABLE webhook_attempts ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
            "rewrites webhook_attempts",
        ),
        ("ALTER TABLE events ADD COLUMN n bigint GENERATED ALWAYS AS (seq * 2) STORED", "rewrites events"),
        ("ALTER TABLE events ADD CHECK (seq > 0)", "checks all rows of events under a lock"),
        (
            "ALTER TABLE webhook_deliveries ALTER COLUMN settled_at SET NOT NULL",
            "checks all rows of webhook_deliveries",
        ),
        (
            "ALTER TABLE events ADD CONSTRAINT c CHECK (seq > 0) NOT VALID; ALTER TABLE events VALIDATE CONSTRAINT c",
            "checks all rows of events under a lock",
        ),
        (
            "UPDATE webhook_deliveries SET schedule_attempts = 0",
            "writes to webhook_deliveries in one transaction",
        ),
        ("DELETE FROM cursors", "writes to cursors in one transaction"),
        (
            "ALTER TABLE events ADD COLUMN x text; ALTER TABLE webhook_deliveries ADD COLUMN x text",
            "locks events, webhook_deliveries together",
        ),
        (
            "-- runs: in batches\nUPDATE events SET x = 1 WHERE false FOR UPDATE SKIP LOCKED",
            "skips locked rows",
        ),
    ],
)
async def test_statements_that_block_others_are_found(
    owner: asyncpg.Connection, text: str, forbidden: str
) -> None:
    found = await violations(owner, Migration("live", "9999_forbidden.sql", text))
    assert [line for line in found if line.startswith(forbidden)], found


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE webhook_deliveries ADD COLUMN n integer NOT NULL DEFAULT 0",
        "ALTER TABLE webhook_deliveries ALTER COLUMN schedule_attempts SET DEFAULT 1",
        "ALTER TABLE webhook_deliveries DROP COLUMN replays",
        "CREATE OR REPLACE FUNCTION to_bigint(total numeric) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN total::bigint",
        "INSERT INTO store_settings SELECT * FROM store_settings",
    ],
)
async def test_fast_statements_are_allowed(owner: asyncpg.Connection, text: str) -> None:
    assert await violations(owner, Migration("live", "9999_allowed.sql", text)) == []


async def test_the_hot_tables_exist(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT DISTINCT relname::text FROM pg_class"
        " WHERE relnamespace IN ('core'::regnamespace, 'live'::regnamespace) AND relkind IN ('r', 'p')"
    )
    assert {row["relname"] for row in rows} >= HOT


@pytest.mark.parametrize(
    "text", ["-- runs: index\nSELECT 1;", "-- runs: index\nCREATE INDEX a ON b (c); SELECT 1;"]
)
def test_an_index_file_contains_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="one statement: CREATE"):
        Migration("live", "9999_index.sql", text).index  # noqa: B018  the property raises


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrently"):
        Migration("live", "9999.sql", "-- runs: concurrently\nSELECT 1;").kind  # noqa: B018  the property raises


def test_a_partition_index_name_is_short_and_unique() -> None:
    index = Index(
        "webhook_deliveries_by_a_rather_long_name_of_many_columns", "webhook_deliveries", False, "(id)"
    )
    parts = [index.name_on(f"webhook_deliveries_2026_{month:02}") for month in range(1, 13)]
    assert len(set(parts)) == 12
    assert max(map(len, parts)) <= 63
    assert index.name_on("webhook_deliveries") == index.name
