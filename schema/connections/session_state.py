"""Reads the state of a session: its statement timeout, and what it waits for."""

from schema.connections.database import Connection, Executor
from schema.queries import load

_SQL = load("session_state")


async def statement_timeout_s(connection: Connection) -> float:
    """Returns the timeout of this session; 0 means none."""
    seconds: float = await connection.fetchval(_SQL["statement_timeout"])
    return seconds


async def waits_for(connection: Executor, pid: int) -> str | None:
    """Returns the wait_event_type of the session; None while it is running, or when it has ended."""
    kind: str | None = await connection.fetchval(_SQL["waits_for"], pid)
    return kind
