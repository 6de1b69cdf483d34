"""The register of worker processes. Each row names the session whose existence proves that its worker is alive."""

from datetime import timedelta

from schema.connections.database import Connection, Executor
from schema.queries import load

_SQL = load("workers")


async def mark(guard: Connection) -> None:
    """Marks the session, before `register` or `hold`. The mark ends with the client, even if a pooler reuses the session."""
    await guard.execute(_SQL["mark"])


async def register(guard: Connection, name: str) -> int:
    """Registers a worker with `guard` as its session."""
    worker_id: int = await guard.fetchval(_SQL["register"], name)
    return worker_id


async def hold(guard: Connection, worker_id: int) -> bool:
    """Makes `guard` the worker's session; False when others have declared the worker dead."""
    await guard.execute(_SQL["hold"], worker_id)
    return bool(await guard.fetchval(_SQL["is_registered"], worker_id))


async def registered(core: Executor) -> list[int]:
    return [row["id"] for row in await core.fetch(_SQL["registered"])]


async def absent(guard: Connection, own_id: int) -> list[int]:
    return [row["id"] for row in await guard.fetch(_SQL["absent"], own_id)]


async def lock_absent(tx: Connection, worker_id: int) -> str | None:
    """Its name, if it is absent and this session may declare it dead. It cannot return before the transaction ends."""
    name: str | None = await tx.fetchval(_SQL["lock_absent"], worker_id)
    return name


async def end_sessions(role: Executor, name: str, standing_still_for: timedelta) -> int:
    """Ends sessions that a worker left idle in a transaction, with their locks; returns how many."""
    ended: int = await role.fetchval(_SQL["end_sessions"], name, standing_still_for)
    return ended


async def forget(tx: Connection, worker_id: int) -> None:
    await tx.execute(_SQL["forget"], worker_id)


async def session_named(role: Executor, name: str) -> bool:
    """Whether a process runs under this name (see Database.open), judged by the role's own sessions."""
    found: bool = await role.fetchval(_SQL["session_named"], name)
    return found
