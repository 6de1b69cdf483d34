"""Checks migrations against the rule in CONTRIBUTING.md by their effects on a database.

A file runs in a transaction that is rolled back. The catalog and the locks of the transaction show what it did to
existing tables.
"""

import asyncpg

from schema.installation.migration import Kind, Migration

BASELINE = {"core": "0099", "data": "0099"}
"""Files up to these create a new database, where they block no one.

The first release sets them to its last files.
"""

# Workers and producers use these tables all the time.
HOT = frozenset(
    {
        "activity",
        "attempt_folds",
        "cursors",
        "endpoint_health",
        "endpoint_rate_limits",
        "event_log",
        "events",
        "sequencer",
        "subscription_states",
        "webhook_attempts",
        "webhook_deliveries",
        "webhook_endpoints",
        "workers",
    }
)

_TABLES = """
SELECT c.oid, c.relname::text AS name, c.relfilenode AS file,
       coalesce((SELECT a.relname::text FROM pg_partition_ancestors(c.oid) p JOIN pg_class a ON a.oid = p.relid
                  WHERE NOT a.relispartition), c.relname::text) AS family,
       ARRAY(SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = c.oid) AS indexes,
       ARRAY(SELECT k.oid FROM pg_constraint k WHERE k.conrelid = c.oid AND k.convalidated AND k.contype <> 't') AS validated,
       ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnotnull AND a.attnum > 0) AS not_null,
       ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) AS columns
  FROM pg_class c
 WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p')
"""
_LOCKS = (
    "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted"
)


async def violations(owner: asyncpg.Connection, migration: Migration) -> list[str]:
    """Returns the file's violations of the rule. The database stays unchanged."""
    match migration.kind:
        case Kind.INDEX:
            assert migration.index
            return []
        case Kind.BATCHES:
            return _of_batches(migration)
    before = {row["oid"]: row for row in await owner.fetch(_TABLES, migration.schema)}
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(f"SET LOCAL search_path = {migration.schema}, pg_temp")
        await owner.execute(migration.statements)
        locks = await owner.fetch(_LOCKS)
        after = {row["oid"]: row for row in await owner.fetch(_TABLES, migration.schema)}
    finally:
        await transaction.rollback()
    found = []
    for oid, was in before.items():
        modes = {row["mode"] for row in locks if row["relation"] == oid}
        if oid in after:
            found += _of_table(was, after[oid], modes)
    exclusive = {
        before[row["relation"]]["family"]
        for row in locks
        if row["relation"] in before and row["mode"] == "AccessExclusiveLock"
    }
    if len(exclusive & HOT) > 1:
        found.append(f"locks {', '.join(sorted(exclusive & HOT))} together: one table a file")
    return sorted(set(found))


def _of_batches(migration: Migration) -> list[str]:
    if "SKIP LOCKED" in migration.text.upper():
        return ["skips locked rows: the file would end before all are changed"]
    return [] if "LIMIT" in migration.text.upper() else ["has no LIMIT: it would change all rows at once"]


def _of_table(was: asyncpg.Record, now: asyncpg.Record, modes: set[str]) -> list[str]:
    table, found = was["family"], []
    if now["file"] != was["file"]:
        found.append(f"rewrites {table}: add a column, fill it in batches, and drop the old one later")
    if set(now["indexes"]) - set(was["indexes"]):
        found.append(f"builds an index on {table} under a lock: use a file that runs: index")
    fresh = set(now["validated"]) - set(was["validated"])
    if fresh and "AccessExclusiveLock" in modes:
        found.append(
            f"checks all rows of {table} under a lock: NOT VALID first, and VALIDATE in a separate file"
        )
    if set(now["not_null"]) & set(was["columns"]) - set(was["not_null"]):
        found.append(f"checks all rows of {table} under a lock: use CHECK (… IS NOT NULL) NOT VALID")
    if table in HOT and "RowExclusiveLock" in modes:
        found.append(f"writes to {table} in one transaction: use a file that runs: in batches")
    return found
