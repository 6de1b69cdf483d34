"""Repairs owners, rights and triggers that differ from their declaration.

A restore into a new cluster, or without owners and privileges, loses some or all of them, and PUBLIC may then
execute every function. Objects that a migration creates get their rights here, in the migration's
transaction.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from schema.errors import Unavailable
from schema.installation.roles import ALL_ROLES
from schema.queries import load
from schema.rights.declared import DECLARED, DeclaredSchema
from schema.rights.differences import FoundObject, Kind, Repair, differences, missing, quoted, summary

_SQL: Final = load("rights")


@dataclass(frozen=True)
class IntendedOwner:
    """The role that is to own duro's objects, and the current login."""

    owner: str
    login: str
    database: str
    database_owner: str


async def intended_owner(owner: asyncpg.Connection) -> IntendedOwner:
    (row,) = await owner.fetch(_SQL["intended_owner"])
    return IntendedOwner(**row)


async def take_over(owner: asyncpg.Connection, intended: IntendedOwner) -> list[str]:
    """Changes the owner of all existing duro objects to the intended one. Returns one line per change.

    Raises Unavailable, with the command to run, when this login may not.
    """
    repairs = [
        repair
        for declared in DECLARED
        for repair in differences(declared, await _found(owner, declared), intended.owner)
        if repair.kind is Kind.OWNER
    ]
    for current in sorted({repair.role for repair in repairs}):
        (held,) = await owner.fetch(_SQL["may_take_over"], current, intended.owner)
        if not held["may"]:
            raise Unavailable(_refusal(intended, current, current_is_superuser=held["superuser"]))
    await _run(owner, repairs)
    return summary(repairs, intended.owner)


def _refusal(intended: IntendedOwner, current: str, *, current_is_superuser: bool) -> str:
    if current == intended.database_owner:
        return (
            f"duro migrate needs the login of the database's owner, {current}: DURO_DATABASE_URL logs in as "
            f"{intended.login}. To make that role the owner, run as a superuser "
            f"ALTER DATABASE {quoted(intended.database)} OWNER TO {quoted(intended.login)}; "
            "then run duro migrate once with a superuser's URL."
        )
    belongs = f"Objects of duro belong to {current}, and {intended.login} may not take them over"
    if current_is_superuser:
        return f"{belongs}: run duro migrate once with a superuser's URL, which makes the database's owner their owner."
    return f"{belongs}: run as a superuser GRANT {quoted(current)} TO {quoted(intended.login)}; then run duro migrate again."


async def refuse_without_create(owner: asyncpg.Connection, intended: IntendedOwner) -> None:
    """Raises Unavailable when this login may not create schemas here."""
    if not await owner.fetchval(_SQL["may_create"]):
        raise Unavailable(
            f"duro migrate needs the login of the database's owner, {intended.database_owner}: "
            f"DURO_DATABASE_URL logs in as {intended.login}, which may not create schemas here."
        )


async def apply(owner: asyncpg.Connection, schemas: Iterable[str], intended: IntendedOwner) -> list[Repair]:
    """Repairs owners, rights and triggers in these schemas. Returns the repairs."""
    repairs = [
        repair
        for declared in DECLARED
        if declared.schema in schemas
        for repair in differences(declared, await _found(owner, declared), intended.owner)
    ]
    await _run(owner, repairs)
    return repairs


async def repair(owner: asyncpg.Connection, intended: IntendedOwner) -> list[str]:
    """Repairs all schemas of a migrated database. Returns one line per kind of repair.

    Raises Unavailable when an object is missing, or when a difference remains.
    """
    for declared in DECLARED:
        if lost := missing(declared, await _found(owner, declared)):
            raise Unavailable(
                f"The database lacks {_some(lost)}, which its migrations created: "
                "restore the dump again into an empty database, and check the errors of the restore."
            )
    schemas = [declared.schema for declared in DECLARED]
    repairs = await apply(owner, schemas, intended)
    lines = summary(repairs, intended.owner)
    if repairs:
        for declared in DECLARED:
            if left := differences(declared, await _found(owner, declared), intended.owner):
                raise Unavailable(
                    f"{intended.login} could not set the rights on {left[0].object}: "
                    f"run as a superuser: {left[0].statement};"
                )
    return lines


async def roles_lacking_rights(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy,
) -> list[str]:
    """Returns which duro roles lack rights in which schema. Any login may call it."""
    repairs = [
        repair
        for declared in DECLARED
        for repair in differences(declared, await _found(connection, declared, partitions=False), "")
        if repair.kind is Kind.GRANT and repair.role in ALL_ROLES
    ]
    return sorted({f"the rights of {repair.role} in schema {repair.schema}" for repair in repairs})


async def _found(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy,
    declared: DeclaredSchema,
    *,
    partitions: bool = True,
) -> list[FoundObject]:
    rows = await connection.fetch(
        _SQL["objects"],
        declared.schema,
        list(declared.tables),
        list(declared.functions),
        list(declared.types),
        list(ALL_ROLES),
        partitions,
    )
    shared = await connection.fetchval(
        _SQL["has_foreign_objects"],
        declared.schema,
        list(declared.tables),
        [*(name.partition("(")[0] for name in declared.functions), *declared.types, *_multiranges(declared)],
        list(declared.types),
    )
    return [
        FoundObject(
            row["kind"],
            row["name"],
            row["declared"],
            row["owner"],
            frozenset((grantee, privilege) for grantee, privilege in row["privileges"]),
            dict(row["triggers"]),
            shared=row["kind"] == "SCHEMA" and shared,
        )
        for row in rows
    ]


def _multiranges(declared: DeclaredSchema) -> list[str]:
    """Returns the multirange types: PostgreSQL creates one per range type, and functions of both names."""
    return [re.sub("range$", "multirange", name) for name in declared.types]


async def _run(owner: asyncpg.Connection, repairs: Iterable[Repair]) -> None:
    if statements := [repair.statement for repair in repairs]:
        await owner.execute(";\n".join(statements))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
