"""Tenants and their API keys."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from schema.connections.database import Executor, Pool
from schema.errors import InvalidInput, NotFound
from schema.ids import TENANT, format_id, new_id
from schema.modes import Mode
from schema.pages import After, Page, page
from schema.queries import load

_SQL = load("tenants")


@dataclass(frozen=True, slots=True)
class Tenant:
    id: UUID
    name: str
    created_at: datetime


async def create(core: Pool, name: str) -> tuple[UUID, dict[Mode, str]]:
    """Creates a tenant; returns its id and one API key per mode. Keys are stored as hashes and cannot be shown again."""
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidInput("A tenant's name must have 1 to 200 printable characters.")
    tenant_id = new_id()
    keys = {mode: f"sk_{mode.value}_{secrets.token_urlsafe(32)}" for mode in Mode}
    async with core.acquire() as tx, tx.transaction():
        await tx.execute(_SQL["create"], tenant_id, name)
        for mode, key in keys.items():
            digest = hashlib.sha256(key.encode()).digest()
            await tx.execute(_SQL["create_key"], new_id(), tenant_id, mode.value, digest, key[-4:])
    return tenant_id, keys


async def require(core: Executor, tenant_id: UUID) -> None:
    if not await core.fetchval(_SQL["exists"], tenant_id):
        raise NotFound(
            f"There is no tenant {format_id(TENANT, tenant_id)}: create one with duro tenant create NAME."
        )


async def list_tenants(core: Executor, after: After, limit: int) -> Page[Tenant]:
    rows = await core.fetch(_SQL["list"], after.created_at, after.id, limit + 1)
    return page([Tenant(**row) for row in rows], limit)
