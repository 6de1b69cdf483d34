"""Detects connection poolers that do not keep one database session per client.

duro keeps state in sessions: settings, advisory locks, prepared statements. A pooler that gives a session to
another client after each transaction would lose this state or leak it to others. Such a pooler is detected
like this:

    first   BEGIN; pid; COMMIT ────────────── BEGIN; pid; COMMIT      its session must stay the same,
    second         BEGIN; pid ──── (still open) ──────────── COMMIT    and must not be the first one's

While the second client holds a session in an open transaction, the first is idle. A pooler in transaction
mode gives the first client's session to the second, or another session to the first. With many other clients
of the same login it may do neither by chance, so the check is repeated.
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
    """Returns the first value. Leaves no prepared statement, and also works in transaction mode."""
    async with connection.transaction():
        statement = await connection.prepare(query, name="")
        return await statement.fetchval(*arguments)


async def refuse_shared_sessions(
    first: asyncpg.Connection, connect: Callable[[], Awaitable[asyncpg.Connection]], where: str, limit: float
) -> None:
    """Raises Unavailable unless each client has its own session. `limit`: seconds for a second session."""
    second: asyncpg.Connection | None = None
    try:
        async with asyncio.timeout(limit):
            second = await connect()
            separate = await _have_own_sessions(first, second)
    except TimeoutError:
        raise Unavailable(
            f"The pooler at {where} provided no second session within {limit:.0f} s: raise its pool size. "
            "duro needs several sessions for each of its roles."
        ) from None
    finally:
        if second is not None:
            second.terminate()
    if not separate:
        raise shared_sessions(where)


def shared_sessions(where: str) -> Unavailable:
    return Unavailable(
        f"The database at {where} is behind a pooler in transaction or statement mode, which duro cannot use: "
        "point DURO_DATABASE_URL to PostgreSQL itself, or to a pooler in session mode."
    )


def refuses_transactions(error: Exception) -> bool:
    """Whether the error is from a pooler in statement mode, which also closes the connection."""
    return "statement pooling" in str(error)


async def _have_own_sessions(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    pid = await fetch_in_one_session(first, _BACKEND)
    for _ in range(_ROUNDS):
        async with second.transaction():
            statement = await second.prepare(_BACKEND, name="")
            if await statement.fetchval() == pid or await fetch_in_one_session(first, _BACKEND) != pid:
                return False
    return True
