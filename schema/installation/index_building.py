"""Builds an index on a table, partitioned or not, without blocking its writers.

    index on the parent alone, invalid ─► for each partition: CREATE INDEX CONCURRENTLY ─► ATTACH
                                                                                             │ the last one
                                                                                             ▼
                                                                                  the parent's index is valid

A partition that is created during this gets its index when it is attached to the parent, while it is still
empty. Each step reads the catalog first, so it may be interrupted anywhere: an invalid index on a partition
is dropped and rebuilt. CREATE INDEX CONCURRENTLY blocks no writer, but it waits for older transactions.
"""

from functools import partial
from typing import Final

import asyncpg

from schema.installation.lock_retries import Progress, with_lock_retries
from schema.installation.migration import Index
from schema.queries import load

_SQL: Final = load("indexes")


async def build_index(owner: asyncpg.Connection, schema: str, index: Index, progress: Progress) -> None:
    """Returns when the index is valid on every partition."""
    for row in await owner.fetch(_SQL["parents"], schema, index.table):
        await _on_parent(owner, schema, index, row["name"], row["parent"], progress)
    while rows := await owner.fetch(_SQL["lacking"], schema, index.table, index.name):
        for row in rows:
            await _on_leaf(owner, schema, index, row["name"], row["parent"], progress)


async def _on_parent(
    owner: asyncpg.Connection, schema: str, index: Index, table: str, parent: str | None, progress: Progress
) -> None:
    """Creates the index of a partitioned table, without those of its partitions."""
    name = index.name_on(table)
    if await owner.fetchval(_SQL["state"], schema, name, table) is None:
        create = partial(owner.execute, _statement(index, f"{name} ON ONLY {schema}.{table}"))
        await with_lock_retries(owner, f"{schema}: index {name}", create, progress)
    if parent is not None:
        await _attach(owner, schema, index.name_on(parent), name, progress)


async def _on_leaf(
    owner: asyncpg.Connection, schema: str, index: Index, table: str, parent: str | None, progress: Progress
) -> None:
    name = index.name_on(table)
    state = await owner.fetchval(_SQL["state"], schema, name, table)
    if state == "invalid":
        progress(f"{schema}: dropping index {name}, which was not completed")
        await owner.execute(f"DROP INDEX CONCURRENTLY {schema}.{name}")
    if state != "valid":
        progress(f"{schema}: building index {name}")
        try:
            await owner.execute(_statement(index, f"CONCURRENTLY {name} ON {schema}.{table}"))
        except (asyncpg.UndefinedTableError, asyncpg.DeadlockDetectedError):
            return  # the partition was dropped, or the index must be rebuilt
    if parent is not None:
        await _attach(owner, schema, index.name_on(parent), name, progress)


async def _attach(
    owner: asyncpg.Connection, schema: str, of_parent: str, name: str, progress: Progress
) -> None:
    """Attaches a partition's index to its parent's. Idempotent."""
    attach = partial(owner.execute, f"ALTER INDEX {schema}.{of_parent} ATTACH PARTITION {schema}.{name}")
    await with_lock_retries(owner, f"{schema}: index {name}", attach, progress)


def _statement(index: Index, what: str) -> str:
    return f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {what} {index.rest}"
