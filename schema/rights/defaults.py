"""Revokes what ALTER DEFAULT PRIVILEGES grants on objects that duro creates.

An operator may have set such defaults for the owner's other tables, in a schema or everywhere. The rights on
duro's objects are declared in declared.py. Grants that an operator adds later stay.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from schema.installation.created_names import CreatedNames
from schema.queries import load

_SQL: Final = load("rights")


@asynccontextmanager
async def without_default_privileges(
    owner: asyncpg.Connection, schema: str, names: CreatedNames
) -> AsyncIterator[None]:
    """Applies to objects of these names created in this schema within the context, in the caller's transaction.

    What the product creates there at the same time keeps its privileges.
    """
    if not await owner.fetchval(_SQL["has_default_privileges"]):
        yield
        return
    (existing,) = await owner.fetch(_SQL["existing_objects"], schema)
    yield
    rows = await owner.fetch(_SQL["granted_by_default"], schema, existing["relations"], existing["functions"])
    statements = [
        row["statement"]
        for row in rows
        if (row["name"] in names.functions if row["is_function"] else names.has_relation_or_type(row["name"]))
    ]
    if statements:
        await owner.execute(";\n".join(statements))
