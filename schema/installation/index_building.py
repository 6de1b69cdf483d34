"""Builds an index on a table that is written to meanwhile, whether it is partitioned or not.

    index on the parent alone, invalid ─► for each partition: CREATE INDEX CONCURRENTLY ─► ATTACH
                                                                                             │ the last one
                                                                                             ▼
                                                                                    the parent's is valid

A partition that is made meanwhile gets its index when it is attached to the parent, where it is still empty. Every
step looks at the catalog first, so it may be interrupted anywhere: a part that was left invalid is dropped and built
again. Building concurrently holds up no writer; it waits for transactions that are older than itself.
"""

from functools import partial
from typing import Final

import asyncpg

from schema.installation.lock_patience import Progress, with_lock_retries
from schema.installation.migration import Index
from schema.queries import load

_SQL: Final = load("indexes")


async def build_index(owner: asyncpg.Connection, schema: str, index: Index, progress: Progress) -> None:
    """Returns when it is there and valid, on every partition."""
    for row in await owner.fetch(_SQL["parents"], schema, index.table):
        await _on_parent(owner, schema, index, row["name"], row["parent"], progress)
    while rows := await owner.fetch(_SQL["lacking"], schema, index.table, index.name):
        for row in rows:
            await _on_leaf(owner, schema, index, row["name"], row["parent"], progress)


async def _on_parent(
    owner: asyncpg.Connection, schema: str, index: Index, table: str, parent: str | None, progress: Progress
) -> None:
    """The index of a partitioned table, without any of its partitions'."""
    name = index.on(table)
    if await owner.fetchval(_SQL["state"], schema, name, table) is None:
        create = partial(owner.execute, _statement(index, f"{name} ON ONLY {schema}.{table}"))
        await with_lock_retries(owner, f"{schema}: index {name}", create, progress)
    if parent is not None:
        await _attach(owner, schema, index.on(parent), name, progress)


async def _on_leaf(
    owner: asyncpg.Connection, schema: str, index: Index, table: str, parent: str | None, progress: Progress
) -> None:
    name = index.on(table)
    state = await owner.fetchval(_SQL["state"], schema, name, table)
    if state == "invalid":
        progress(f"{schema}: dropping index {name}, which was left unfinished")
        await owner.execute(f"DROP INDEX CONCURRENTLY {schema}.{name}")
    if state != "valid":
        progress(f"{schema}: building index {name}")
        try:
            await owner.execute(_statement(index, f"CONCURRENTLY {name} ON {schema}.{table}"))
        except (asyncpg.UndefinedTableError, asyncpg.DeadlockDetectedError):
            return  # dropped meanwhile, or to be built again
    if parent is not None:
        await _attach(owner, schema, index.on(parent), name, progress)


async def _attach(
    owner: asyncpg.Connection, schema: str, of_parent: str, name: str, progress: Progress
) -> None:
    """Attaching what is attached changes nothing."""
    attach = partial(owner.execute, f"ALTER INDEX {schema}.{of_parent} ATTACH PARTITION {schema}.{name}")
    await with_lock_retries(owner, f"{schema}: index {name}", attach, progress)


def _statement(index: Index, what: str) -> str:
    return f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {what} {index.rest}"
