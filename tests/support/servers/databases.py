"""One embedded cluster per pytest process, one migrated template in it, and a copy of that for each test.

The template is migrated by the owner, who is not a superuser, and everybody may connect and make temporary tables,
as in a database that an operator hands us. It keeps the partitions of this
month and the next: a copy costs a file per relation, and all thirteen months would make it three times as slow.
A test about partitions brings the others back with ensure_partitions().

A database is not emptied and used again. Foreign keys make that a TRUNCATE of nearly every table, with the
triggers of append-only ones off: 22 ms of the server's time. A copy takes 20 ms and dropping it 7 ms, and nothing
of a test can stay behind in it. Copies are not made ahead in the background either: they would run transactions
and write WAL beside a test that counts these.
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
    """Of every database here: the login roles are the cluster's, and have the passwords that it yields."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _left_over: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        """As the owner."""
        return with_database(self.server.owner_url, database)

    def superuser_url(self, database: str) -> str:
        return with_database(self.server.superuser_url, database)

    @asynccontextmanager
    async def empty_database(self) -> AsyncIterator[str]:
        """As an operator finds it before the first migration."""
        async with self.fresh_database("template1") as name:
            yield name

    @asynccontextmanager
    async def fresh_database(self, template: str = TEMPLATE) -> AsyncIterator[str]:
        """The name of a database of its own, owned by the owner.

        It is dropped when the next one is made: at once, the server would wait for connections that are closing.
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
    """With its own key unless another is given. Configured as in production, unless it need not outlive the machine."""
    with temporary_directory() as place, _attached(place / "data") as server:
        if not durable:
            run_apart(_trade_durability_for_speed(server))
        yield Cluster(server, key or server.secret_key)


def _attached(data_dir: Path) -> EmbeddedServer:
    """Tries twice, because a whole process's share of the tests hangs on it.

    As root, the server's account gets lost when a package is being installed that writes /etc/passwd without its lock.
    """
    try:
        return attach(data_dir)
    except Unavailable:
        return attach(data_dir)


async def _trade_durability_for_speed(server: EmbeddedServer) -> None:
    """A database is made for each test, and flushing its files is a tenth of that in memory and most of it on a disk."""
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
    """For session fixtures: on a loop in a thread, out of the way of the loops that pytest-asyncio makes."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
