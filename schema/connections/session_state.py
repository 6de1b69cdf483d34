"""What the server says of a session: how long a statement may take, and what it waits for."""

from schema.connections.database import Connection, Executor
from schema.queries import load

_SQL = load("session_state")


async def statement_timeout_s(connection: Connection) -> float:
    """Of this session; 0 when there is none."""
    seconds: float = await connection.fetchval(_SQL["statement_timeout"])
    return seconds


async def waits_for(connection: Executor, pid: int) -> str | None:
    """The kind of what that session waits for (wait_event_type); None while it computes, or is gone."""
    kind: str | None = await connection.fetchval(_SQL["waits_for"], pid)
    return kind
