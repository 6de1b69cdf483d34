"""Runs PgBouncer in front of a test's cluster: SCRAM, with each role's verifier read from the server."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.servers.databases import Cluster
from tests.support.servers.directories import free_port, temporary_directory

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
UP_WITHIN_S = 20.0

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


class PgBouncer:
    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, url: str) -> str:
        """Returns the URL of the same database through PgBouncer."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))


@asynccontextmanager
async def pgbouncer(
    cluster: Cluster, mode: str, *, database: str = "*", **settings: object
) -> AsyncIterator[PgBouncer]:
    """`mode`: session, transaction or statement.

    `database`: the one it serves. Keywords set other settings.
    """
    assert PROGRAM is not None
    server = urlsplit(cluster.server.superuser_url)
    port = free_port()
    with temporary_directory() as directory:
        (directory / "users").write_text(f'"{server.username}" "{server.password}"\n')
        written = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "pool_mode": mode,
            "auth_type": "scram-sha-256",
            "auth_file": directory / "users",
            "auth_user": server.username,
            "auth_query": "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1",
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in written.items()]
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n{database} = host={server.hostname} port={server.port}\n[pgbouncer]\n"
            + "\n".join(lines)
        )
        # PgBouncer refuses to run as root.
        other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        process = await asyncio.create_subprocess_exec(
            PROGRAM, str(directory / "pgbouncer.ini"), stderr=asyncio.subprocess.PIPE, **other
        )
        try:
            await _until_up(process)
            yield PgBouncer(port)
        finally:
            process.kill()
            await process.communicate()


async def _until_up(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(UP_WITHIN_S):
        output = b""
        while b"process up" not in output:
            line = await process.stderr.readline()
            assert line, output.decode()
            output += line
