"""How a command ends when its reader goes away, its user presses Ctrl-C, or its database is lost."""

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import termios
from typing import IO
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import Unavailable
from schema.installation.migrate import _LOCK_KEY
from schema.modes import Mode
from service.cli.app import database_errors
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.support.events import record_many
from tests.support.servers.connections import Connect
from tests.support.servers.duro_process import SIGINT_IGNORED


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
async def test_a_closed_pipe_prints_no_error(
    form: list[str], duro: Duro, ten: str, tenant: UUID, database: Database
) -> None:
    """`duro event list | head -1`"""
    await record_many(database.data(Mode.TEST), tenant, 100)
    reader, writer = os.pipe()
    os.close(reader)
    listing = duro.popen(
        "event", "list", "--tenant", ten, "--mode", "test", "--limit", "100", *form,
        stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    _, stderr = await asyncio.to_thread(listing.communicate, timeout=PATIENCE)
    assert (listing.returncode, stderr) == (1, "")


async def test_ctrl_c_while_waiting_for_input_is_status_130(duro: Duro, ten: str) -> None:
    arguments = (
        "event",
        "record",
        "--tenant",
        ten,
        "--mode",
        "test",
        "--type",
        "invoice_created",
        "--data",
        "-",
    )
    recording = duro.popen(*arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert recording.stdin is not None
    recording.stdin.write("{")
    recording.stdin.flush()
    await _until_read(recording.stdin)
    recording.send_signal(signal.SIGINT)
    _, stderr = await asyncio.to_thread(recording.communicate, timeout=PATIENCE)
    assert recording.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize("prefix", [(), SIGINT_IGNORED], ids=["", "started-with-sigint-ignored"])
async def test_ctrl_c_while_waiting_for_the_database_is_status_130(
    prefix: tuple[str, ...], duro: Duro, connect: Connect
) -> None:
    holder = await connect("duro_owner")
    await holder.fetchval("SELECT pg_advisory_lock($1)", _LOCK_KEY)
    migrating = duro.popen("migrate", prefix=prefix, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert migrating.stderr is not None
    assert "Waiting for another process" in await asyncio.to_thread(migrating.stderr.readline)
    migrating.send_signal(signal.SIGINT)
    stdout, stderr = await asyncio.to_thread(migrating.communicate, timeout=PATIENCE)
    assert (migrating.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr


async def test_a_lost_connection_is_one_sentence(connect: Connect, superuser: asyncpg.Connection) -> None:
    connection = await connect()
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    with pytest.raises(Unavailable, match="went away in the middle"), database_errors():
        await connection.fetchval("SELECT 1")


async def _until_read(pipe: IO[str]) -> None:
    """Until the other end has taken all that was written."""
    async with asyncio.timeout(PATIENCE):
        while _unread(pipe):  # noqa: ASYNC110  nothing signals it
            await asyncio.sleep(0.01)


def _unread(pipe: IO[str]) -> int:
    [count] = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(count)
