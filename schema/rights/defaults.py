"""What ALTER DEFAULT PRIVILEGES gives away of objects that are made by us is taken back.

An operator may have set such defaults for the owner's other tables, in a schema or everywhere. Rights on ours are declared (see
declared.py), and what is granted on them afterwards stays.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from schema.queries import load

_SQL: Final = load("rights")


@asynccontextmanager
async def without_default_privileges(owner: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """For what is made in this schema meanwhile, inside the caller's transaction."""
    if not await owner.fetchval(_SQL["has_default_privileges"]):
        yield
        return
    (there,) = await owner.fetch(_SQL["there"], schema)
    yield
    rows = await owner.fetch(_SQL["given_by_default"], schema, there["relations"], there["functions"])
    if rows:
        await owner.execute(";\n".join(row["statement"] for row in rows))
