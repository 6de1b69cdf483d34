"""The register of worker processes: each row names the session by which its worker shows that it lives."""

from schema.database import Connection
from schema.queries import load

_SQL = load("workers")


async def register(guard: Connection, name: str) -> int:
    """`guard` becomes the worker's session."""
    worker_id: int = await guard.fetchval(_SQL["register"], name)
    return worker_id


async def hold(guard: Connection, worker_id: int) -> bool:
    """Makes `guard` the worker's session; False when others have declared the worker dead."""
    await guard.execute(_SQL["hold"], worker_id)
    return bool(await guard.fetchval(_SQL["is_registered"], worker_id))


async def registered(guard: Connection) -> list[int]:
    return [row["id"] for row in await guard.fetch(_SQL["registered"])]


async def absent(guard: Connection, own_id: int) -> list[int]:
    return [row["id"] for row in await guard.fetch(_SQL["absent"], own_id)]


async def lock_absent(tx: Connection, worker_id: int) -> bool:
    """Whether it is absent and ours to declare dead; it cannot come back before the transaction ends."""
    return await tx.fetchval(_SQL["lock_absent"], worker_id) is not None


async def forget(tx: Connection, worker_id: int) -> None:
    await tx.execute(_SQL["forget"], worker_id)
