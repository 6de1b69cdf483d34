"""Creates events whose stored bytes cannot be read, as they happen in practice:

SQL_ASCII accepts any bytes.
"""

from uuid import UUID

import asyncpg

from schema.connections.database import Database
from schema.modes import Mode
from tests.support.servers.connections import SUPERUSER, Connect

_BAD = """('{"n": "' || chr(200) || '"}')::jsonb"""


async def switch_to_sql_ascii(connect: Connect, database: Database) -> asyncpg.Connection:
    """Makes the database accept any bytes from now on. Returns a superuser session."""
    superuser = await connect(SUPERUSER)
    await superuser.execute("UPDATE pg_database SET encoding = 0 WHERE datname = current_database()")
    for pool in (database.core, *(database.data(mode) for mode in Mode)):
        await pool.expire_connections()
    return await connect(SUPERUSER)


async def record_damaged(superuser: asyncpg.Connection, tenant: UUID) -> UUID:
    """Records an event as a producer that sends Latin-1."""
    event: UUID = await superuser.fetchval(
        f"SELECT record_event($1::uuid, 'invoice_created', {_BAD})", tenant
    )
    return event


async def damage(superuser: asyncpg.Connection, event: UUID) -> None:
    await _change(superuser, event, _BAD)


async def repair(superuser: asyncpg.Connection, event: UUID) -> None:
    await _change(superuser, event, """'{"n": 1}'""")


async def _change(superuser: asyncpg.Connection, event: UUID, data: str) -> None:
    """Disables the append-only trigger for the change."""
    leaf = await superuser.fetchval("SELECT tableoid::regclass::text FROM events WHERE id = $1", event)
    async with superuser.transaction():
        await superuser.execute(f"ALTER TABLE {leaf} DISABLE TRIGGER append_only")
        await superuser.execute(f"UPDATE {leaf} SET data = {data} WHERE id = $1", event)
        await superuser.execute(f"ALTER TABLE {leaf} ENABLE ALWAYS TRIGGER append_only")
