"""Whether a connection pooler keeps one session of the database for each of its clients.

duro keeps things in sessions (settings, advisory locks, prepared statements), so a pooler that hands a session to
another client after each transaction would lose them, or give them to others. Such a pooler is caught like this:

    first   BEGIN; pid; COMMIT ────────────── BEGIN; pid; COMMIT      its session must stay the same,
    second         BEGIN; pid ──── (still open) ──────────── COMMIT    and must not be the first one's

While the second holds a session in an open transaction, the first is idle: a pooler in transaction mode has given
the first one's session away, or now gives the first another. Only with many other clients of the same login may it
by chance do neither, so this is repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

_ROUNDS: Final = 4
_BACKEND: Final = load("sessions")["backend"]


async def fetch_in_one_session(connection: asyncpg.Connection, query: str, *arguments: object) -> Any:
    """The first value. Leaves no prepared statement behind, and works in transaction mode, too."""
    async with connection.transaction():
        statement = await connection.prepare(query, name="")
        return await statement.fetchval(*arguments)


async def refuse_shared_sessions(
    first: asyncpg.Connection, connect: Callable[[], Awaitable[asyncpg.Connection]], where: str, limit: float
) -> None:
    """Raises Unavailable unless the pooler keeps sessions apart. `limit`: seconds for a second session."""
    second: asyncpg.Connection | None = None
    try:
        async with asyncio.timeout(limit):
            second = await connect()
            apart = await _are_apart(first, second)
    except TimeoutError:
        raise Unavailable(
            f"The pooler at {where} gave no second session within {limit:.0f} s: raise its pool size, "
            "for duro needs several sessions for each of its roles."
        ) from None
    finally:
        if second is not None:
            second.terminate()
    if not apart:
        raise shared_sessions(where)


def shared_sessions(where: str) -> Unavailable:
    return Unavailable(
        f"The database at {where} is behind a pooler in transaction or statement mode, which duro cannot use: "
        "point DURO_DATABASE_URL at PostgreSQL itself, or at a pooler in session mode."
    )


def refuses_transactions(error: Exception) -> bool:
    """Whether it is a pooler in statement mode that says so. It closes the connection, too."""
    return "statement pooling" in str(error)


async def _are_apart(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    mine = await fetch_in_one_session(first, _BACKEND)
    for _ in range(_ROUNDS):
        async with second.transaction():
            statement = await second.prepare(_BACKEND, name="")
            if await statement.fetchval() == mine or await fetch_in_one_session(first, _BACKEND) != mine:
                return False
    return True
