"""Dumps and restores with PostgreSQL's programs, into an existing database."""

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.support.servers.databases import Cluster


async def pg_dump(cluster: Cluster, database: str, *options: str) -> bytes:
    """Dumps as the owner, in the custom format unless `options` has another."""
    status, output, errors = await _run(_program(cluster, "pg_dump"), "-Fc", *options, cluster.url(database))
    assert status == 0, errors
    return output


async def schema_of(cluster: Cluster, database: str) -> list[str]:
    """Dumps everything except rows, with owners and privileges, as a superuser."""
    url = cluster.superuser_url(database)
    status, output, errors = await _run(_program(cluster, "pg_dump"), "--schema-only", url)
    assert status == 0, errors
    # The \restrict lines contain a random word.
    return [line for line in output.decode().splitlines() if "restrict " not in line]


async def pg_restore(cluster: Cluster, url: str, dump: bytes, *options: str) -> str:
    """Goes on after errors, as it does for an operator. Returns them."""
    _status, _output, errors = await _run(_program(cluster, "pg_restore"), *options, "-d", url, dump=dump)
    return errors


async def psql(cluster: Cluster, url: str, script: bytes) -> str:
    """Goes on after errors, as it does for an operator. Returns them."""
    _status, _output, errors = await _run(_program(cluster, "psql"), "-q", "-X", "-d", url, dump=script)
    return errors


def _program(cluster: Cluster, name: str) -> Path:
    return cluster.server.bin_dir / name


async def _run(program: Path, *arguments: str, dump: bytes = b"") -> tuple[int | None, bytes, str]:
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate(dump)
    return process.returncode, output, errors.decode()
