"""What dies is started again, and what a crash leaves behind is in nobody's way."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from schema.embedded import attach, wait_stopped
from schema.embedded.files.account import server_account
from schema.embedded.files.address import HOST, Address, read_address, write_address
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.process.keeper import Healing
from schema.embedded.process.waiting import wait_until
from tests.schema.embedded.embedded_harness import (
    PATIENCE,
    User,
    all_gone,
    keeper_pids,
    postmaster_pid,
    query,
    stopped_cluster,
)


@pytest.fixture
def data() -> Iterator[DataDir]:
    with stopped_cluster() as data:
        yield data


def kill_and_see_healed(data: DataDir) -> None:
    old_pid = postmaster_pid(data)
    os.kill(old_pid, signal.SIGKILL)

    def healed() -> bool:
        lines = data.pid_file.read_text().splitlines() if data.pid_file.exists() else []
        return len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) != old_pid

    assert wait_until(healed, PATIENCE)


async def test_a_killed_server_comes_back_with_what_was_committed(data: DataDir) -> None:
    with attach(data.root) as server:
        await query(server.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        for _ in range(2):
            kill_and_see_healed(data)
            assert await query(server.owner_url, "SELECT answer FROM kept") == 42


async def test_a_killed_keeper_is_replaced_by_the_next_to_attach(data: DataDir) -> None:
    with attach(data.root):
        pid = postmaster_pid(data)
        kill_keeper(data)
        with attach(data.root):
            assert len(keeper_pids(data)) == 1
            assert postmaster_pid(data) == pid
    assert all_gone(data)


def test_a_killed_keeper_is_replaced_by_the_last_to_release(data: DataDir) -> None:
    with attach(data.root):
        kill_keeper(data)
    assert all_gone(data)


async def test_a_server_that_everyone_abandoned_is_adopted(data: DataDir) -> None:
    """The keeper first and then the only user, both by SIGKILL: nobody was left to stop it."""
    with User(data.root) as user:
        user.said("url")
        kill_keeper(data)
    pid = postmaster_pid(data)
    with attach(data.root) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid
    assert all_gone(data)


def test_the_keeper_outlives_signals_meant_for_its_users(data: DataDir) -> None:
    with attach(data.root):
        keepers = keeper_pids(data)
        kill_and_see_healed(data)  # it is past its own start
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(keepers[0], number)
        kill_and_see_healed(data)
        assert keeper_pids(data) == keepers


async def test_lock_files_naming_a_living_stranger_are_survived(data: DataDir) -> None:
    """After a restart of a container, another process often has the old postmaster's process id."""
    port = 29_999
    with stranger(data) as pid:
        stale = f"{pid}\n{data.pgdata}\n1700000000\n{port}\n{data.pgdata}\n{HOST}\n 1 1\nready\n"
        for lock_file in (data.pid_file, data.pgdata / f".s.PGSQL.{port}.lock"):
            lock_file.write_text(stale)
            server_account(data.pgdata).give(lock_file)
        write_address(data, Address(port, data.pgdata))
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert wait_stopped(data.root, PATIENCE)


async def test_a_taken_port_is_left_to_its_owner(data: DataDir) -> None:
    with attach(data.root) as server:
        before = read_address(data)
    assert wait_stopped(data.root, PATIENCE)
    with socket.create_server((HOST, before.port)), attach(data.root) as server:
        assert read_address(data).port != before.port
        assert await query(server.owner_url, "SELECT 1") == 1


async def test_a_lost_owner_password_is_set_anew(data: DataDir) -> None:
    data.owner_password.unlink()
    with attach(data.root) as server:
        assert await query(server.owner_url, "SELECT 1") == 1


async def test_a_half_done_set_up_is_finished(data: DataDir) -> None:
    """As after a kill between the statements of owner.sql."""
    with attach(data.root) as server:
        await query(server.superuser_url, "DROP DATABASE duro")
        await query(server.superuser_url, "ALTER ROLE duro_owner NOLOGIN")
        with pytest.raises(asyncpg.PostgresError):
            await query(server.owner_url, "SELECT 1")
        with attach(data.root):
            assert await query(server.owner_url, "SELECT 1") == 1


def test_a_server_that_cannot_start_is_tried_ever_more_rarely(data: DataDir) -> None:
    """Attempts at 0, 0.5, 1.5, 3.5 s … of the clock, however often the keeper looks."""
    (data.pgdata / "pg_hba.conf").write_text("nonsense\n")
    write_address(data, Address(29_998, data.pgdata))
    now = 0.0
    healing = Healing(data, clock=lambda: now)
    attempts = []
    while now < 8:
        size = data.log.stat().st_size
        healing.attend()
        with FileLock(data.server_lock) as lock:
            assert wait_until(lock.try_exclusive, PATIENCE)
        if data.log.stat().st_size > size:
            attempts.append(now)
        now += 0.25
    assert attempts == [0, 0.5, 1.5, 3.5, 7.5]


@contextmanager
def stranger(data: DataDir) -> Iterator[int]:
    """The id of a process that is none of the server's, of the user that runs it, and unharmed at the end."""
    with subprocess.Popen(["sleep", "600"], **server_account(data.pgdata).for_subprocess()) as process:
        try:
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


def kill_keeper(data: DataDir) -> None:
    (pid,) = keeper_pids(data)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_held(data.keeper_lock), PATIENCE)
