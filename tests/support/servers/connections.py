"""Connections outside the pools, for interleaved transactions and other roles."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from schema.modes import Mode
from schema.secret_box import derive_role_password
from tests.support.servers.databases import OWNER, Cluster

SUPERUSER = "postgres"
SANDBOX = Mode.TEST.role
LIVE = Mode.LIVE.role

Connect: TypeAlias = Callable[..., Awaitable[asyncpg.Connection]]
"""`await connect(role)`, from `connections`."""


@asynccontextmanager
async def connections(cluster: Cluster, database: str) -> AsyncIterator[Connect]:
    """A login role's connection has its schema as search_path, as in Database; other roles have sandbox.

    All connections are closed at the end in any state.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.sleep, 0)  # the loop closes what has been terminated

        async def connect(role: str = SANDBOX) -> asyncpg.Connection:
            connection = await asyncpg.connect(
                **_login(cluster, database, role), timeout=10, command_timeout=20
            )
            stack.callback(connection.terminate)
            return connection

        yield connect


def _login(cluster: Cluster, database: str, role: str) -> dict[str, Any]:
    if role in {SUPERUSER, OWNER}:
        url = cluster.superuser_url(database) if role == SUPERUSER else cluster.url(database)
        return {"dsn": url, "server_settings": {"search_path": Mode.TEST.schema}}
    return {
        "dsn": cluster.url(database),
        "user": role,
        "password": derive_role_password(cluster.key, role),
        "server_settings": {"search_path": role.removeprefix("duro_")},
    }
