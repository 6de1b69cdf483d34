"""A temporary PostgreSQL 16 with the embedded server's defaults, and fresh databases in it.

Each measurement gets its own database, copied from a migrated template, so it does not see another's dead rows.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from schema.connections.connecting import owner_login
from schema.connections.database import CONNECT_TIMEOUT_S, connect_with, target_of
from schema.embedded import attach, wait_stopped
from schema.embedded.files.data_dir import DataDir
from schema.embedded.process.owner import OWNER as _OWNER
from schema.installation.migrate import migrate
from schema.secret_repr import HidesSecrets

_TEMPLATE: Final = "bench_template"
_STOPS_WITHIN_S: Final = 30.0
_DDL_TIMEOUT_S: Final = 300.0

# Settings that determine the cost of a commit. They are reported with the results and never changed.
REPORTED_SETTINGS: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
)


@dataclass(frozen=True, slots=True)
class ScratchServer(HidesSecrets):
    url: str = field(repr=False)
    superuser_url: str = field(repr=False)
    key: bytes = field(repr=False)
    directory: Path
    postmaster: int
    """Its process id."""
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def database_url(self, name: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def connect(self, name: str) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Connects to a database as its owner."""
        return _connected(self.database_url(name))

    async def prepare(self) -> dict[str, str]:
        """Creates the template database. Returns the server's version and settings."""
        async with _connected(self.superuser_url) as superuser:
            await superuser.execute(f"CREATE DATABASE {_TEMPLATE} OWNER {_OWNER}")
            settings = {
                name: await superuser.fetchval("SELECT current_setting($1)", name)
                for name in REPORTED_SETTINGS
            }
        async with self.connect(_TEMPLATE) as owner:
            await migrate(owner, self.key, lambda _step: None)
        return settings

    @asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[str]:
        """Yields its name. Remaining connections, such as autovacuum, are terminated at the end."""
        name = f"bench_{next(self._numbers)}"
        async with _connected(self.superuser_url) as superuser:
            await superuser.execute(
                f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {_OWNER}", timeout=_DDL_TIMEOUT_S
            )
        try:
            yield name
        finally:
            async with _connected(self.superuser_url) as superuser:
                await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)", timeout=_DDL_TIMEOUT_S)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    target = target_of(url)
    connection = await connect_with(target, owner_login(target), "duro bench", {})
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    finally:
        connection.terminate()


@contextmanager
def scratch_server(parent: Path | None, progress: Callable[[str], None]) -> Iterator[ScratchServer]:
    """Blocks while it starts, so enter it before the event loop.

    `parent` defaults to the temporary directory.
    """
    top = Path(tempfile.mkdtemp(prefix="duro-bench-", dir=parent))
    if os.geteuid() == 0:
        top.chmod(0o711)  # the server runs as another user and needs to enter it
    data = DataDir(top / "data")
    try:
        with attach(data.root, progress=progress) as server:
            postmaster = int(data.pid_file.read_text().split()[0])
            yield ScratchServer(server.owner_url, server.superuser_url, server.secret_key, top, postmaster)
    finally:
        _remove(top, data.root)


def _remove(top: Path, data_dir: Path) -> None:
    """Removes the directory.

    Ctrl-C is ignored during this, because it would leave the server's files behind.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if data_dir.exists():
            wait_stopped(data_dir, _STOPS_WITHIN_S)
        shutil.rmtree(top)
    finally:
        signal.signal(signal.SIGINT, before)
