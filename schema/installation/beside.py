"""Checks whether the schemas core, live or sandbox contain other objects, and whether duro can be installed
beside them.

    no such schema, or an empty one         duro creates or uses it
    other objects, no name that duro needs  refused, unless the operator uses --beside
    an object with a name that duro needs   refused
    duro's migrations                       only the names that pending migrations need are checked

The check only reads and runs before any write. Other objects are never changed: all statements name duro's
own objects.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from schema.errors import Unavailable
from schema.installation.created_names import CreatedNames, created_names
from schema.queries import load

_SQL: Final = load("preconditions")
_MIGRATIONS_TABLE: Final = load("migrations")["prepare"]


async def refuse_foreign_objects(
    owner: asyncpg.Connection, texts: Mapping[str, Mapping[str, str]], *, beside: bool
) -> None:
    """Raises Unavailable. `texts` has the text of each migration, by schema and name."""
    (table,) = await owner.fetch(_SQL["migrations_table"])
    if table["found"] and not table["readable"]:
        return  # a database of duro that another role has restored
    applied = await owner.fetch(load("migrations")["applied"]) if table["found"] else []
    done = {(row["schema"], row["name"]) for row in applied}
    others: list[str] = []
    for schema, by_name in texts.items():
        own = [_MIGRATIONS_TABLE] if schema == "core" and table["found"] else []
        own += [text for name, text in by_name.items() if (schema, name) in done]
        pending = [_MIGRATIONS_TABLE] if schema == "core" and not table["found"] else []
        pending += [text for name, text in by_name.items() if (schema, name) not in done]
        existing = created_names(own)
        await _refuse_collisions(owner, schema, created_names(pending).without(existing))
        if not any((schema, name) in done for name in by_name):
            others += await _others(owner, schema, existing)
    if others and not beside:
        raise Unavailable(
            f"The database has objects that are not duro's in schemas that duro uses ({_some(others)}): use another "
            "database, or run duro migrate --beside, which adds duro's objects and does not change the others."
        )


async def _refuse_collisions(owner: asyncpg.Connection, schema: str, names: CreatedNames) -> None:
    rows = await owner.fetch(_SQL["names_in"], schema)
    taken = [
        row["object"]
        for row in rows
        if (
            row["name"] in names.functions
            if row["kind"] == "function"
            else names.has_relation_or_type(row["name"])
        )
    ]
    if taken:
        raise Unavailable(
            f"The database has objects with names that duro needs in schema {schema} ({_some(taken)}): use another "
            "database, or rename them."
        )


async def _others(owner: asyncpg.Connection, schema: str, existing: CreatedNames) -> list[str]:
    """Returns objects of others. Raises Unavailable if there are any and this login may not create objects
    there.
    """
    rows = await owner.fetch(_SQL["objects_in"], schema)
    others = [f"{row['type']} {row['identity']}" for row in rows if row["name"] not in existing.relations]
    if others:
        (rights,) = await owner.fetch(_SQL["may_create_in"], schema)
        if not rights["may"]:
            raise Unavailable(
                f"The schema {schema} has objects that are not duro's and belongs to {rights['owner']}: use another "
                f"database, or run GRANT USAGE, CREATE ON SCHEMA {schema} TO {rights['login']} WITH GRANT OPTION; "
                "and then duro migrate --beside."
            )
    return others


def _some(objects: Sequence[str]) -> str:
    return ", ".join(objects[:5]) + (f" and {len(objects) - 5} more" if len(objects) > 5 else "")
