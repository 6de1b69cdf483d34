"""Killed processes are restarted, and leftovers of a crash do not prevent a start."""

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
from schema.embedded.process.keeper import ServerRestarter
from schema.embedded.process.waiting import wait_until
from tests.schema.embedded.embedded_harness import (
    PATIENCE,
    AttachedProcess,
    everything_stopped,
    keeper_pids,
    postmaster_pid,
    query,
    stopped_cluster,
)


@pytest.fixture
def data() -> Iterator[DataDir]:
    with stopped_cluster() as data:
        yield data


def kill_and_wait_for_restart(data: DataDir) -> None:
    old_pid = postmaster_pid(data)
    os.kill(old_pid, signal.SIGKILL)

    def restarted() -> bool:
        lines = data.pid_file.read_text().splitlines() if data.pid_file.exists() else []
        return len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) != old_pid

    assert wait_until(restarted, PATIENCE)


async def test_a_killed_server_restarts_with_its_commits(data: DataDir) -> None:
    with attach(data.root) as server:
        await query(server.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        for _ in range(2):
            kill_and_wait_for_restart(data)
            assert await query(server.owner_url, "SELECT answer FROM kept") == 42


async def test_the_next_attach_replaces_a_killed_keeper(data: DataDir) -> None:
    with attach(data.root):
        pid = postmaster_pid(data)
        kill_keeper(data)
        with attach(data.root):
            assert len(keeper_pids(data)) == 1
            assert postmaster_pid(data) == pid
    assert everything_stopped(data)


def test_the_last_release_replaces_a_killed_keeper(data: DataDir) -> None:
    with attach(data.root):
        kill_keeper(data)
    assert everything_stopped(data)


async def test_an_orphaned_server_is_adopted(data: DataDir) -> None:
    """SIGKILL ends the keeper and then the only attached process, so no process was left to stop the server."""
    with AttachedProcess(data.root) as attached:
        attached.wait_for("url")
        kill_keeper(data)
    pid = postmaster_pid(data)
    with attach(data.root) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid
    assert everything_stopped(data)


def test_the_keeper_ignores_termination_signals(data: DataDir) -> None:
    with attach(data.root):
        keepers = keeper_pids(data)
        kill_and_wait_for_restart(data)  # its startup has finished
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(keepers[0], number)
        kill_and_wait_for_restart(data)
        assert keeper_pids(data) == keepers


async def test_stale_lock_files_with_a_living_pid_are_removed(data: DataDir) -> None:
    """After a restart of a container, another process often has the old postmaster's pid."""
    port = 29_999
    with unrelated_process(data) as pid:
        stale = f"{pid}\n{data.pgdata}\n1700000000\n{port}\n{data.pgdata}\n{HOST}\n 1 1\nready\n"
        for lock_file in (data.pid_file, data.pgdata / f".s.PGSQL.{port}.lock"):
            lock_file.write_text(stale)
            server_account(data.pgdata).take_ownership(lock_file)
        write_address(data, Address(port, data.pgdata))
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert wait_stopped(data.root, PATIENCE)


async def test_a_port_in_use_is_replaced(data: DataDir) -> None:
    with attach(data.root) as server:
        before = read_address(data)
    assert wait_stopped(data.root, PATIENCE)
    with socket.create_server((HOST, before.port)), attach(data.root) as server:
        assert read_address(data).port != before.port
        assert await query(server.owner_url, "SELECT 1") == 1


async def test_a_lost_owner_password_is_reset(data: DataDir) -> None:
    data.owner_password.unlink()
    with attach(data.root) as server:
        assert await query(server.owner_url, "SELECT 1") == 1


async def test_an_incomplete_setup_is_finished(data: DataDir) -> None:
    """The state is that after a kill between the statements of owner.sql."""
    with attach(data.root) as server:
        await query(server.superuser_url, "DROP DATABASE duro")
        await query(server.superuser_url, "ALTER ROLE duro_owner NOLOGIN")
        with pytest.raises(asyncpg.PostgresError):
            await query(server.owner_url, "SELECT 1")
        with attach(data.root):
            assert await query(server.owner_url, "SELECT 1") == 1


def test_failed_restarts_are_retried_with_growing_delays(data: DataDir) -> None:
    """It tries at 0, 0.5, 1.5, 3.5 s … of the clock, however often the keeper checks."""
    (data.pgdata / "pg_hba.conf").write_text("nonsense\n")
    write_address(data, Address(29_998, data.pgdata))
    now = 0.0
    restarter = ServerRestarter(data, clock=lambda: now)
    attempts = []
    while now < 8:
        size = data.log.stat().st_size
        restarter.check()
        with FileLock(data.server_lock) as lock:
            assert wait_until(lock.try_exclusive, PATIENCE)
        if data.log.stat().st_size > size:
            attempts.append(now)
        now += 0.25
    assert attempts == [0, 0.5, 1.5, 3.5, 7.5]


@contextmanager
def unrelated_process(data: DataDir) -> Iterator[int]:
    """Yields the pid of an unrelated process of the server's user, and asserts that it still runs at the end."""
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
