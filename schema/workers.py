"""The register of worker processes, and the lock by which each shows that it lives."""

from schema.database import Connection
from schema.queries import load

_SQL = load("workers")


async def register(guard: Connection, name: str) -> int:
    worker_id: int = await guard.fetchval(_SQL["register"], name)
    await guard.fetchval(_SQL["lock"], worker_id)
    return worker_id


async def lock(guard: Connection, worker_id: int) -> bool:
    return bool(await guard.fetchval(_SQL["lock"], worker_id))


async def hold(guard: Connection, worker_id: int) -> bool:
    """As `lock`, and true as well when this session has it already."""
    return bool(await guard.fetchval(_SQL["hold"], worker_id))


async def unlock(guard: Connection, worker_id: int) -> None:
    await guard.fetchval(_SQL["unlock"], worker_id)


async def is_registered(guard: Connection, worker_id: int) -> bool:
    return bool(await guard.fetchval(_SQL["is_registered"], worker_id))


async def absent(guard: Connection, own_id: int) -> list[int]:
    return [row["id"] for row in await guard.fetch(_SQL["absent"], own_id)]


async def forget(guard: Connection, worker_id: int) -> None:
    await guard.execute(_SQL["forget"], worker_id)
