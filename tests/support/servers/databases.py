"""One embedded cluster per pytest process with one migrated template, and a copy of it for each test.

The owner, who is not a superuser, migrates the template. All roles may connect and create temporary tables, as in an
operator's database. The template has only the partitions of this month and the next: a copy costs a file per relation,
and thirteen months would make it three times slower. Tests of partitions add the others with ensure_partitions().

A database is not emptied and reused. Because of foreign keys that needs a TRUNCATE of nearly every table with the
append-only triggers off: 22 ms of server time. A copy takes 20 ms and its drop 7 ms, and it contains nothing of an
earlier test. Copies are not prepared in the background, because that would run transactions and write WAL beside a
test that counts them.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from schema.embedded import EmbeddedServer, attach
from schema.errors import Unavailable
from schema.installation.migrate import migrate
from schema.modes import Mode
from tests.support.servers.directories import temporary_directory

T = TypeVar("T")
OWNER = "duro_owner"
TEMPLATE = "duro_template"

_DISTANT_PARTITIONS = r"""
SELECT i.inhparent::regclass AS parent, c.oid::regclass AS partition
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r'
 WHERE c.relname ~ '_\d{4}_\d{2}$' AND right(c.relname, 7) > to_char(now() + interval '1 month', 'YYYY_MM')
"""


@dataclass(frozen=True)
class Cluster:
    server: EmbeddedServer
    key: bytes
    """The key of every database in it, because the login roles are shared and their passwords derive from the
    key.
    """
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _left_over: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        """Returns the owner's URL."""
        return with_database(self.server.owner_url, database)

    def superuser_url(self, database: str) -> str:
        return with_database(self.server.superuser_url, database)

    @asynccontextmanager
    async def empty_database(self) -> AsyncIterator[str]:
        """Yields the name of a database before its first migration."""
        async with self.fresh_database("template1") as name:
            yield name

    @asynccontextmanager
    async def fresh_database(self, template: str = TEMPLATE) -> AsyncIterator[str]:
        """Yields the name of a new database that belongs to the owner.

        It is dropped when the next one is created. An immediate drop would wait for connections that are closing.
        """
        name = f"test_{next(self._numbers)}"
        admin = await asyncpg.connect(self.server.superuser_url)
        while self._left_over:
            await admin.execute(f"DROP DATABASE {self._left_over.pop()} WITH (FORCE)")
        # FILE_COPY: faster than the default for a template with many relations and few rows.
        await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template} STRATEGY file_copy")
        await admin.close()
        try:
            yield name
        finally:
            self._left_over.append(name)


def with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@contextmanager
def running_cluster(key: bytes | None = None, *, durable: bool = True) -> Iterator[Cluster]:
    """Starts a cluster, by default with its own key. It is configured as in production if `durable`."""
    with temporary_directory() as directory, _attached(directory / "data") as server:
        if not durable:
            run_apart(_trade_durability_for_speed(server))
        yield Cluster(server, key or server.secret_key)


def _attached(data_dir: Path) -> EmbeddedServer:
    """Tries twice, because all tests of the process depend on it.

    As root, the server's account can be lost while a package installation writes /etc/passwd without its lock.
    """
    try:
        return attach(data_dir)
    except Unavailable:
        return attach(data_dir)


async def _trade_durability_for_speed(server: EmbeddedServer) -> None:
    """Turns off fsync: flushing a new database takes a tenth of its creation in memory, and most of it on a
    disk.
    """
    superuser = await asyncpg.connect(server.superuser_url)
    for setting in ("fsync", "full_page_writes"):
        await superuser.execute(f"ALTER SYSTEM SET {setting} = off")
    await superuser.execute("SELECT pg_reload_conf()")
    await superuser.close()


async def make_template(cluster: Cluster) -> None:
    server = await asyncpg.connect(cluster.server.owner_url)
    await server.execute(f"CREATE DATABASE {TEMPLATE}")
    await server.close()
    owner = await asyncpg.connect(cluster.url(TEMPLATE))
    await migrate(owner, cluster.key)
    for mode in Mode:
        await owner.execute(f"SET search_path = {mode.schema}")
        for row in await owner.fetch(_DISTANT_PARTITIONS):
            await owner.execute(f"ALTER TABLE {row['parent']} DETACH PARTITION {row['partition']}")
            await owner.execute(f"DROP TABLE {row['partition']}")
    await owner.close()


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on a loop in a thread, for session fixtures, separate from pytest-asyncio's loops."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
