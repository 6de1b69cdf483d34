"""Forward-only migrations: core's once, data's once for each mode's schema, each file in one transaction with
its entry in the book. An advisory lock lets two processes start at once; a killed one leaves whole files only.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import asyncpg

from schema.beside import refuse_others_objects
from schema.errors import Unavailable
from schema.modes import Mode
from schema.preconditions import check_server
from schema.queries import load
from schema.rights.defaults import without_default_privileges
from schema.rights.repair import apply as give_rights
from schema.rights.repair import intended_owner, refuse_without_create, repair, take_over
from schema.roles import ANALYST_ROLES, ensure_roles, refuse_foreign_roles, refuse_missing_rights
from schema.secret_box import key_check

LOCK_WITHIN_S = 60.0
_LOCK_KEY: Final = 0x6475726F  # "duro"
_SQL = load("migrations")


@dataclass(frozen=True)
class Migrated:
    files: int
    """How many were applied."""
    repaired: Sequence[str]
    """What was put right of roles, owners, grants and triggers, in words."""


@dataclass(frozen=True)
class Migration:
    schema: str
    name: str
    text: str

    @property
    def statements(self) -> str:
        """The text for its schema: a function's settings cannot be parameters, so the name is put in."""
        return self.text.replace(" :schema, ", f" {self.schema}, ")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> Iterator[Migration]:
    """In the order of application: data's views look into core, so core comes first."""
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
    progress: Callable[[str], None] = lambda _line: None,
    *,
    beside: bool = False,
) -> Migrated:
    """Brings the database up to this version, and repairs its roles, owners and rights. Safe to run again, and at once.

    `beside`: also where the schemas have objects of the product's, which stay as they are.
    """
    await check_server(owner)
    await _lock(owner, progress)
    try:
        await refuse_others_objects(owner, _texts(), beside=beside)
        return await _migrate(owner, key, progress)
    finally:
        if not owner.is_closed():
            await owner.fetchval(_SQL["unlock"], _LOCK_KEY)


async def _lock(owner: asyncpg.Connection, progress: Callable[[str], None]) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_WITHIN_S
    told = False
    while not await owner.fetchval(_SQL["lock"], _LOCK_KEY):
        if not told:
            progress("Waiting for another process that migrates this database")
            told = True
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Another session has held the lock of migrations for {LOCK_WITHIN_S:.0f} s: "
                "see in pg_locks (locktype advisory) which it is, and end it if it hangs."
            )
        await owner.execute(_SQL["free_lock"], list(ANALYST_ROLES))
        await asyncio.sleep(0.1)


async def _migrate(owner: asyncpg.Connection, key: bytes, progress: Callable[[str], None]) -> Migrated:
    async with owner.transaction():  # what is refused leaves no claim behind
        intended = await intended_owner(owner)
        taken_over = await take_over(owner, intended)
        await refuse_without_create(owner, intended)
        async with without_default_privileges(owner, "core"):
            await owner.execute(_SQL["prepare"])
        if await owner.fetchval(_SQL["claim_key"], key_check(key)) != key_check(key):
            raise Unavailable(
                "This database was set up with another secret key: set DURO_SECRET_KEY to that one, "
                "or DURO_DATA_DIR to the directory that holds it."
            )
        await refuse_foreign_roles(owner, key)
        await refuse_missing_rights(owner)
    roles = await ensure_roles(owner, key)
    applied = {(row["schema"], row["name"]): row["sha256"] for row in await owner.fetch(_SQL["applied"])}
    pending = missing(applied)
    for migration in pending:
        progress(f"{migration.schema}: {migration.name}")
        async with owner.transaction():
            # pg_temp last, in the path that functions keep too: else a caller's temporary table stands in for ours.
            await owner.execute(f"SET LOCAL search_path = {migration.schema}, pg_temp")
            async with without_default_privileges(owner, migration.schema):
                await owner.execute(migration.statements)
            await owner.execute(_SQL["record"], migration.schema, migration.name, migration.sha256)
            await give_rights(owner, [migration.schema], intended)
    async with owner.transaction():
        repaired = [*taken_over, *(roles if applied else []), *await repair(owner, intended)]
    return Migrated(len(pending), repaired)


def _texts() -> dict[str, dict[str, str]]:
    """By schema and name."""
    texts: dict[str, dict[str, str]] = {}
    for migration in migrations():
        texts.setdefault(migration.schema, {})[migration.name] = migration.text
    return texts


def missing(applied: Mapping[tuple[str, str], str]) -> list[Migration]:
    """What a database with this book, {(schema, name): sha256}, still lacks, in order.

    Raises Unavailable when the book has entries that this version cannot have written.
    """
    known = {(m.schema, m.name): m for m in migrations()}
    for entry, sha256 in applied.items():
        if entry not in known:
            raise Unavailable(
                f"The database has migration {'/'.join(entry)}, which this version does not know: "
                "it belongs to a newer duro-webhooks; use that version."
            )
        if known[entry].sha256 != sha256:
            raise Unavailable(
                f"Migration {'/'.join(entry)} was applied with another text than this version has: "
                "use the version that made this database, and never edit an applied migration."
            )
    return [migration for entry, migration in known.items() if entry not in applied]
