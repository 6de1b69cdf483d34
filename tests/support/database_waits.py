"""Waits for conditions that only the database shows."""

import asyncio

import asyncpg

PATIENCE_S = 20.0  # far longer than anything takes


async def until(connection: asyncpg.Connection, question: str, *arguments: object) -> None:
    """Waits until a query returns true. Fails after PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while not await connection.fetchval(question, *arguments):  # noqa: ASYNC110  # Postgres sets no Event
            await asyncio.sleep(0.005)


async def wait_until_blocked(observer: asyncpg.Connection, waiting: asyncpg.Connection) -> None:
    """Waits until the other connection's statement waits for a lock."""
    await until(
        observer,
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1",
        waiting.get_server_pid(),
    )
