"""Whether the product has objects in the schemas core, live or sandbox, and whether duro's can live beside them.

    empty, or no such schema          duro makes it, or uses it
    objects, no name that duro needs  refused, unless the operator says --beside
    a name that duro needs            refused
    our migrations are in it          only the names of those that are still to come are looked at

Only reads, and comes before anything is written. What is beside is never changed: everything of ours is named in statements.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from schema.errors import Unavailable
from schema.installation.created_names import CreatedNames, created_names
from schema.queries import load

_SQL: Final = load("preconditions")
_BOOK: Final = load("migrations")["prepare"]


async def refuse_others_objects(
    owner: asyncpg.Connection, texts: Mapping[str, Mapping[str, str]], *, beside: bool
) -> None:
    """`texts`: by schema, the text of each migration by its name. Raises Unavailable."""
    (book,) = await owner.fetch(_SQL["has_book"])
    if book["found"] and not book["readable"]:
        return  # a database of ours that has been restored by another role
    applied = await owner.fetch(load("migrations")["applied"]) if book["found"] else []
    done = {(row["schema"], row["name"]) for row in applied}
    others: list[str] = []
    for schema, by_name in texts.items():
        own = [_BOOK] if schema == "core" and book["found"] else []
        own += [text for name, text in by_name.items() if (schema, name) in done]
        coming = [_BOOK] if schema == "core" and not book["found"] else []
        coming += [text for name, text in by_name.items() if (schema, name) not in done]
        ours = created_names(own)
        await _refuse_collisions(owner, schema, created_names(coming).without(ours))
        if not any((schema, name) in done for name in by_name):
            others += await _others(owner, schema, ours)
    if others and not beside:
        raise Unavailable(
            f"The database has objects that are not duro's in schemas that duro uses ({_some(others)}): use another "
            "database, or run duro migrate --beside, which adds duro's objects beside them and does not change them."
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


async def _others(owner: asyncpg.Connection, schema: str, ours: CreatedNames) -> list[str]:
    """Objects that are not ours. Raises Unavailable when there are some and this login may not add to them."""
    rows = await owner.fetch(_SQL["objects_in"], schema)
    others = [f"{row['type']} {row['identity']}" for row in rows if row["name"] not in ours.relations]
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
