"""Consumes transaction ids, to bring a cluster to a certain one."""

import asyncpg

_BURN = "DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


async def next_xid(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))


async def burn(connection: asyncpg.Connection, count: int) -> None:
    if count > 0:
        await connection.execute(_BURN.format(count=count))


async def burn_until(connection: asyncpg.Connection, xid: int) -> None:
    """Consumes ids until the next one is at least `xid`."""
    await burn(connection, xid - await next_xid(connection))
