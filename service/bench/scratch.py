"""A PostgreSQL 16 of the benchmark's own, with the embedded server's defaults, gone afterwards; and fresh databases in it.

Each measurement gets a database of its own, copied from a migrated template, so none finds another's dead rows.
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

from schema.connecting import owner_login
from schema.database import CONNECT_TIMEOUT_S, connect_with, target_of
from schema.embedded import attach, wait_stopped
from schema.embedded.data_dir import DataDir
from schema.embedded.owner import OWNER as _OWNER
from schema.migrate import migrate

_TEMPLATE: Final = "bench_template"
_STOPS_WITHIN_S: Final = 30.0
_DDL_TIMEOUT_S: Final = 300.0

# What decides how dear a commit is; told beside the figures, never changed.
TOLD_SETTINGS: Final = (
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
class Scratch:
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
        """To a database, as its owner."""
        return _connected(self.database_url(name))

    async def prepare(self) -> dict[str, str]:
        """Makes the template; returns the server's version and settings."""
        async with _connected(self.superuser_url) as superuser:
            await superuser.execute(f"CREATE DATABASE {_TEMPLATE} OWNER {_OWNER}")
            told = {
                name: await superuser.fetchval("SELECT current_setting($1)", name) for name in TOLD_SETTINGS
            }
        async with self.connect(_TEMPLATE) as owner:
            await migrate(owner, self.key, lambda _step: None)
        return told

    @asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[str]:
        """Its name. Whoever is still connected to it at the end, autovacuum for one, is thrown out."""
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
def scratch_server(parent: Path | None, progress: Callable[[str], None]) -> Iterator[Scratch]:
    """Blocks while it starts, so enter it before the event loop. `parent` defaults to the system's temporary directory."""
    top = Path(tempfile.mkdtemp(prefix="duro-bench-", dir=parent))
    if os.geteuid() == 0:
        top.chmod(0o711)  # the server's own user passes through
    data = DataDir(top / "data")
    try:
        with attach(data.root, progress=progress) as server:
            postmaster = int(data.pid_file.read_text().split()[0])
            yield Scratch(server.owner_url, server.superuser_url, server.secret_key, top, postmaster)
    finally:
        _remove(top, data.root)


def _remove(top: Path, data_dir: Path) -> None:
    """A second Ctrl-C does not hurry this: half of it would leave a server's files behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if data_dir.exists():
            wait_stopped(data_dir, _STOPS_WITHIN_S)
        shutil.rmtree(top)
    finally:
        signal.signal(signal.SIGINT, before)
