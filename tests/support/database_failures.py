"""Failures of a database, each lasting until the work has hit it several times."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import asyncpg

_ROLES = "('duro_core', 'duro_sandbox')"
_ENOUGH_S = 0.4
"""For a lock that blocks no session."""
_LONGEST_S = 1.5
"""For a lock that blocks work with growing retry delays."""


@asynccontextmanager
async def locked(
    holder: asyncpg.Connection, observer: asyncpg.Connection, statement: str, waits: int
) -> AsyncIterator[None]:
    """Holds the lock at exit until sessions have waited for it `waits` times, if it blocks any."""
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(statement)
    try:
        yield
        seen: set[object] = set()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (now := loop.time() - began) < _ENOUGH_S or (0 < len(seen) < waits and now < _LONGEST_S):
            rows = await observer.fetch(
                "SELECT l.pid, l.waitstart FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE NOT l.granted AND l.waitstart IS NOT NULL"
                f" AND a.datname = current_database() AND a.usename IN {_ROLES}"
            )
            seen |= {tuple(row) for row in rows}
            await asyncio.sleep(0.01)
    finally:
        await transaction.rollback()


@asynccontextmanager
async def failing_writes(
    owner: asyncpg.Connection, tables: Collection[str], state: str, times: int
) -> AsyncIterator[None]:
    """Makes every write to these tables fail with that SQLSTATE, until writes have failed that many times."""
    await owner.execute("CREATE SEQUENCE IF NOT EXISTS public.raised; SELECT setval('public.raised', 1)")
    await owner.execute("GRANT ALL ON SEQUENCE public.raised TO PUBLIC")
    await owner.execute(
        f"""
        CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('public.raised');
            RAISE 'refused by a trigger' USING ERRCODE = '{state}';
        END $$
        """
    )
    for table in tables:
        await owner.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()"
        )
    try:
        yield
        while await owner.fetchval("SELECT last_value FROM public.raised") <= times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    finally:
        for table in tables:
            await owner.execute(f"DROP TRIGGER refuse ON {table}")


async def end_sessions(superuser: asyncpg.Connection, how: str = "pg_terminate_backend") -> int:
    """Ends sessions of duro's roles. With pg_cancel_backend it cancels running statements instead."""
    active = "" if how == "pg_terminate_backend" else "AND state = 'active'"
    count: int = await superuser.fetchval(
        f"SELECT count({how}(pid)) FROM pg_stat_activity"
        f" WHERE usename IN {_ROLES} AND datname = current_database() {active}"
    )
    return count
