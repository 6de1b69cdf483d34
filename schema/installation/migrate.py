"""Applies forward-only migrations: core's once, data's once per mode's schema.

An advisory lock serializes processes that start at the same time. A file and its entry in
core.schema_migrations are one transaction, unless the file says otherwise (see migration.py). So a killed
process leaves complete files, or steps that the next run detects. Workers and producers continue while
migrations run.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Final

import asyncpg

from schema.errors import Unavailable
from schema.installation.beside import refuse_foreign_objects
from schema.installation.created_names import CreatedNames, created_names
from schema.installation.index_building import build_index
from schema.installation.lock_retries import Progress, with_lock_retries
from schema.installation.migration import Kind, Migration
from schema.installation.preconditions import check_server
from schema.installation.roles import ANALYST_ROLES, ensure_roles, refuse_foreign_roles, refuse_missing_rights
from schema.modes import Mode
from schema.queries import load
from schema.rights.defaults import without_default_privileges
from schema.rights.repair import IntendedOwner, intended_owner, refuse_without_create, repair, take_over
from schema.rights.repair import apply as give_rights
from schema.secret_box import key_check

LOCK_WITHIN_S = 60.0
_LOCK_KEY: Final = 0x6475726F  # "duro"
_SQL = load("migrations")


@dataclass(frozen=True)
class MigrationResult:
    files: int
    """The number of files applied."""
    repaired: Sequence[str]
    """One line per repair of roles, owners, grants and triggers."""


def migrations() -> Iterator[Migration]:
    """Yields migrations in order. Core comes first, because data's views read it."""
    yield from _folder("core", "core")
    for mode in Mode:
        yield from _folder("data", mode.schema)


def _folder(folder: str, schema: str) -> Iterator[Migration]:
    found = [f for f in files("schema").joinpath("migrations", folder).iterdir() if f.name.endswith(".sql")]
    for file in sorted(found, key=lambda f: f.name):
        yield Migration(schema, file.name, file.read_text(encoding="utf-8"))


async def migrate(
    owner: asyncpg.Connection,
    key: bytes,
    progress: Progress = lambda _line: None,
    *,
    beside: bool = False,
) -> MigrationResult:
    """Migrates the database to this version and repairs roles, owners and rights. Idempotent and safe to run
    concurrently.

    `beside`: accepts schemas that have objects of others, which are not changed.
    """
    await check_server(owner)
    await _lock(owner, progress)
    try:
        await _refuse_other_history(owner)
        await refuse_foreign_objects(owner, _texts(), beside=beside)
        return await _migrate(owner, key, progress)
    finally:
        if not owner.is_closed():
            await owner.fetchval(_SQL["unlock"], _LOCK_KEY)


async def _refuse_other_history(owner: asyncpg.Connection) -> None:
    """Raises Unavailable for the migrations of another version.

    Runs before names are compared, because objects of another version would look like a product's.
    """
    (table,) = await owner.fetch(load("preconditions")["migrations_table"])
    if table["found"] and table["readable"]:
        pending_migrations(await _applied(owner))


async def _applied(owner: asyncpg.Connection) -> dict[tuple[str, str], str]:
    return {(row["schema"], row["name"]): row["sha256"] for row in await owner.fetch(_SQL["applied"])}


async def _lock(owner: asyncpg.Connection, progress: Progress) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_WITHIN_S
    reported = False
    while not await owner.fetchval(_SQL["lock"], _LOCK_KEY):
        if not reported:
            progress("Waiting for another process that is migrating this database")
            reported = True
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Another session has held the migration lock for {LOCK_WITHIN_S:.0f} s: "
                "find it in pg_locks (locktype advisory), and end it if it hangs."
            )
        await owner.execute(_SQL["free_lock"], list(ANALYST_ROLES))
        await asyncio.sleep(0.1)


async def _migrate(owner: asyncpg.Connection, key: bytes, progress: Progress) -> MigrationResult:
    intended = await intended_owner(owner)
    taken_over = await with_lock_retries(
        owner, "Taking over the database", partial(_claim, owner, key, intended), progress
    )
    roles = await ensure_roles(owner, key)
    applied = await _applied(owner)
    pending = pending_migrations(applied)
    names = {schema: created_names(texts.values()) for schema, texts in _texts().items()}
    for migration in pending:
        progress(f"{migration.schema}: {migration.name}")
        await _apply(owner, migration, names[migration.schema], intended, progress)
    rights = await with_lock_retries(owner, "Repairing rights", partial(repair, owner, intended), progress)
    return MigrationResult(len(pending), [*taken_over, *(roles if applied else []), *rights])


async def _claim(owner: asyncpg.Connection, key: bytes, intended: IntendedOwner) -> list[str]:
    """Runs in one transaction, so that a refusal changes nothing. Returns one line per change of owner."""
    taken_over = await take_over(owner, intended) if await owner.fetchval(_SQL["is_installed"]) else []
    await refuse_without_create(owner, intended)
    async with without_default_privileges(owner, "core", created_names([_SQL["prepare"]])):
        await owner.execute(_SQL["prepare"])
    if await owner.fetchval(_SQL["claim_key"], key_check(key)) != key_check(key):
        raise Unavailable(
            "This database was set up with another secret key: set DURO_SECRET_KEY to that one, "
            "or DURO_DATA_DIR to the directory that holds it."
        )
    await refuse_foreign_roles(owner, key)
    await refuse_missing_rights(owner)
    return taken_over


async def _apply(
    owner: asyncpg.Connection,
    migration: Migration,
    names: CreatedNames,
    intended: IntendedOwner,
    progress: Progress,
) -> None:
    """Applies one file and records it. After a kill, the next run continues with the same file."""
    what = f"{migration.schema}: {migration.name}"

    async def execute() -> str:
        # pg_temp comes last, also in the path that functions store: otherwise a caller's temporary table
        # would be used.
        await owner.execute(f"SET LOCAL search_path = {migration.schema}, pg_temp")
        async with without_default_privileges(owner, migration.schema, names):
            return await owner.execute(migration.statements)

    async def record() -> None:
        await owner.execute(_SQL["record"], migration.schema, migration.name, migration.sha256)
        await give_rights(owner, [migration.schema], intended)

    async def whole() -> None:
        await execute()
        await record()

    match migration.kind:
        case Kind.TRANSACTION:
            await with_lock_retries(owner, what, whole, progress)
            return
        case Kind.INDEX:
            await owner.execute(f"SET search_path = {migration.schema}, pg_temp")
            await build_index(owner, migration.schema, migration.index, progress)
            await owner.execute("RESET search_path")
        case Kind.BATCHES:
            while not (await with_lock_retries(owner, what, execute, progress)).endswith(" 0"):
                pass
    await with_lock_retries(owner, what, record, progress)


def _texts() -> dict[str, dict[str, str]]:
    """Returns the texts by schema and name, without index files: an interrupted run may have left their
    parts.
    """
    texts: dict[str, dict[str, str]] = {}
    for migration in migrations():
        if migration.kind is not Kind.INDEX:
            texts.setdefault(migration.schema, {})[migration.name] = migration.text
    return texts


def pending_migrations(applied: Mapping[tuple[str, str], str]) -> list[Migration]:
    """Returns the migrations still to apply, in order. `applied` is {(schema, name): sha256}.

    Raises Unavailable when `applied` has entries that this version cannot have written.
    """
    known = {(m.schema, m.name): m for m in migrations()}
    for entry, sha256 in applied.items():
        if entry not in known:
            raise Unavailable(
                f"The database has migration {'/'.join(entry)}, which this version does not have: "
                "use the newer version of duro-webhooks that applied it."
            )
        if known[entry].sha256 != sha256:
            raise Unavailable(
                f"Migration {'/'.join(entry)} was applied with a different text: "
                "use the version that created this database, and never edit an applied migration."
            )
    return [migration for entry, migration in known.items() if entry not in applied]
