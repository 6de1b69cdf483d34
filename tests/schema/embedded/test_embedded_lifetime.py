"""The server runs exactly as long as a process is attached."""

import os
import signal
from collections.abc import Iterator

import asyncpg
import pytest

from schema.embedded import attach, wait_stopped
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import is_held
from schema.embedded.process.keeper import run_keeper
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
from tests.support.servers.directories import temporary_directory


@pytest.fixture
def data() -> Iterator[DataDir]:
    with stopped_cluster() as data:
        yield data


async def refuses_connections(url: str) -> bool:
    try:
        await query(url, "SELECT 1")
    except (OSError, asyncpg.PostgresError):
        return True
    return False


async def test_data_survives_a_restart(data: DataDir) -> None:
    """The URL stays the same too."""
    with attach(data.root) as first:
        await query(first.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert wait_stopped(data.root, PATIENCE)
    assert await refuses_connections(first.owner_url)
    with attach(data.root) as second:
        assert await query(second.owner_url, "SELECT answer FROM kept") == 42
    assert second.owner_url == first.owner_url


async def test_concurrent_first_starts_create_one_cluster() -> None:
    with temporary_directory() as directory:
        data_dir = directory / "deep" / "data"
        with AttachedProcess(data_dir) as one, AttachedProcess(data_dir) as other:
            urls = {one.wait_for("url"), other.wait_for("url")}
            assert len(urls) == 1
            assert await query(urls.pop(), "SELECT current_user") == "duro_owner"
            assert len(keeper_pids(DataDir(data_dir))) == 1


async def test_one_process_leaving_does_not_stop_it(data: DataDir) -> None:
    with AttachedProcess(data.root) as first, AttachedProcess(data.root) as second:
        first.wait_for("url")
        url = second.wait_for("url")
        pid = postmaster_pid(data)
        first.stop()
        assert not wait_stopped(data.root, PATIENCE)
        assert await query(url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid


async def test_the_last_process_leaving_stops_it(data: DataDir) -> None:
    """It is a clean shutdown, so the next start needs no recovery."""
    with AttachedProcess(data.root) as attached:
        url = attached.wait_for("url")
        attached.stop()
        assert everything_stopped(data)
        assert await refuses_connections(url)
        assert "database system is shut down" in data.log.read_text()


def test_killing_every_attached_process_stops_it(data: DataDir) -> None:
    with AttachedProcess(data.root) as one, AttachedProcess(data.root) as other:
        one.wait_for("url")
        other.wait_for("url")
        one.kill_group()
        other.kill_group()
        assert wait_until(lambda: not is_held(data.server_lock), 10)
        assert everything_stopped(data)


async def test_ctrl_c_does_not_reach_the_server(data: DataDir) -> None:
    """A terminal sends SIGINT to its foreground group. Neither server nor keeper is in it."""
    with attach(data.root), AttachedProcess(data.root) as attached:
        url = attached.wait_for("url")
        pid = postmaster_pid(data)
        assert os.getsid(pid) != os.getsid(attached.process.pid)
        assert {os.getpgid(keeper) for keeper in keeper_pids(data)}.isdisjoint(
            {attached.process.pid, os.getpgrp()}
        )
        os.killpg(attached.process.pid, signal.SIGINT)
        attached.process.wait(PATIENCE)
        assert await query(url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid


async def test_attaching_during_the_stop_gets_a_server(data: DataDir) -> None:
    for _ in range(3):
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert wait_until(lambda: is_held(data.users_lock), PATIENCE, poll=0)


def test_an_exiting_keeper_releases_keeper_lock_first(data: DataDir) -> None:
    """Otherwise an attaching process would find keeper.lock held by a keeper that is about to exit."""
    users_lock_held: list[bool] = []
    run_keeper(data, lambda: users_lock_held.append(is_held(data.users_lock)))
    assert users_lock_held == [True]


def test_killing_the_starter_during_a_start_leaves_no_server(data: DataDir) -> None:
    with AttachedProcess(data.root) as starter:
        starter.wait_for("step")
        assert wait_until(lambda: is_held(data.server_lock), PATIENCE, poll=0)
        starter.kill_group()
        assert everything_stopped(data)


async def test_killing_the_starter_during_initdb_leaves_no_cluster() -> None:
    with temporary_directory() as directory:
        data = DataDir(directory / "data")
        with AttachedProcess(data.root) as starter:
            assert starter.wait_for("step") == "Creating the database cluster"
            assert wait_until(lambda: any(data.root.glob("postgres.new-*/data/base")), PATIENCE, poll=0)
            starter.kill_group()
        assert not data.pgdata.exists()
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert not list(data.root.glob("postgres.new-*"))


def test_release_can_be_called_twice(data: DataDir) -> None:
    server = attach(data.root)
    with attach(data.root):
        server.release()
        server.release()
        assert not wait_stopped(data.root, 0)
    assert wait_stopped(data.root, PATIENCE)


def test_wait_stopped_accepts_an_unused_directory() -> None:
    with temporary_directory() as directory:
        assert wait_stopped(directory, 0)


def test_progress_reports_the_slow_steps() -> None:
    with temporary_directory() as directory:
        steps: list[str] = []
        with attach(directory / "data", progress=steps.append):
            assert steps == ["Creating the database cluster", "Starting PostgreSQL 16"]
            attach(directory / "data", progress=steps.append).release()
            assert len(steps) == 2
