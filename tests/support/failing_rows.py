"""Simulates a defect: a trigger rejects certain rows until it is dropped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def rejecting_rows(
    owner: asyncpg.Connection, event: str, where: str, *, code: str = "raise_exception"
) -> AsyncIterator[None]:
    """`event` as in "INSERT ON invoices"; `where` is a condition on NEW.

    The transaction fails with the error `code`.
    """
    table = event.rpartition(" ")[2]
    await owner.execute(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE {code} USING MESSAGE = 'this one never works'; END $$;
        CREATE TRIGGER refuse BEFORE {event} FOR EACH ROW WHEN ({where}) EXECUTE FUNCTION refuse();
    """)
    try:
        yield
    finally:
        await owner.execute(f"DROP TRIGGER refuse ON {table}; DROP FUNCTION refuse()")
