"""The server runs while somebody is attached, and not a moment longer."""

import os
import signal
from collections.abc import Iterator

import asyncpg
import pytest

from schema.embedded import attach, wait_stopped
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import is_held
from schema.embedded.process.keeper import keep
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
from tests.support.servers.places import temporary_place


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
    """Also the URL stays the same, for whoever wrote it down."""
    with attach(data.root) as first:
        await query(first.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert wait_stopped(data.root, PATIENCE)
    assert await refuses_connections(first.owner_url)
    with attach(data.root) as second:
        assert await query(second.owner_url, "SELECT answer FROM kept") == 42
    assert second.owner_url == first.owner_url


async def test_two_at_once_make_one_cluster() -> None:
    with temporary_place() as place:
        data_dir = place / "deep" / "data"
        with User(data_dir) as one, User(data_dir) as other:
            urls = {one.said("url"), other.said("url")}
            assert len(urls) == 1
            assert await query(urls.pop(), "SELECT current_user") == "duro_owner"
            assert len(keeper_pids(DataDir(data_dir))) == 1


async def test_the_first_to_leave_does_not_stop_it(data: DataDir) -> None:
    with User(data.root) as first, User(data.root) as second:
        first.said("url")
        url = second.said("url")
        pid = postmaster_pid(data)
        first.leave()
        assert not wait_stopped(data.root, PATIENCE)
        assert await query(url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid


async def test_the_last_to_leave_stops_it(data: DataDir) -> None:
    """As a clean shutdown, so that the next start has nothing to recover."""
    with User(data.root) as user:
        url = user.said("url")
        user.leave()
        assert all_gone(data)
        assert await refuses_connections(url)
        assert "database system is shut down" in data.log.read_text()


def test_killing_every_user_stops_it(data: DataDir) -> None:
    with User(data.root) as one, User(data.root) as other:
        one.said("url")
        other.said("url")
        one.kill_group()
        other.kill_group()
        assert wait_until(lambda: not is_held(data.server_lock), 10)
        assert all_gone(data)


async def test_ctrl_c_reaches_its_users_first(data: DataDir) -> None:
    """A terminal sends SIGINT to the whole foreground group; neither server nor keeper is in it."""
    with attach(data.root), User(data.root) as user:
        url = user.said("url")
        pid = postmaster_pid(data)
        assert os.getsid(pid) != os.getsid(user.process.pid)
        assert {os.getpgid(keeper) for keeper in keeper_pids(data)}.isdisjoint(
            {user.process.pid, os.getpgrp()}
        )
        os.killpg(user.process.pid, signal.SIGINT)
        user.process.wait(PATIENCE)
        assert await query(url, "SELECT 1") == 1
        assert postmaster_pid(data) == pid


async def test_a_newcomer_during_the_stop_gets_a_server(data: DataDir) -> None:
    for _ in range(3):
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert wait_until(lambda: is_held(data.users_lock), PATIENCE, poll=0)


def test_a_leaving_keeper_lets_go_of_its_lock_while_newcomers_still_wait(data: DataDir) -> None:
    """Else a newcomer would find keeper.lock held and count on a keeper that is about to exit."""
    newcomers_wait: list[bool] = []
    keep(data, lambda: newcomers_wait.append(is_held(data.users_lock)))
    assert newcomers_wait == [True]


def test_killing_the_starter_in_the_middle_of_a_start_leaves_no_server(data: DataDir) -> None:
    with User(data.root) as starter:
        starter.said("step")
        assert wait_until(lambda: is_held(data.server_lock), PATIENCE, poll=0)
        starter.kill_group()
        assert all_gone(data)


async def test_killing_the_starter_in_the_middle_of_initdb_leaves_nothing_half_made() -> None:
    with temporary_place() as place:
        data = DataDir(place / "data")
        with User(data.root) as starter:
            assert starter.said("step") == "Creating the database cluster"
            assert wait_until(lambda: any(data.root.glob("postgres.new-*/data/base")), PATIENCE, poll=0)
            starter.kill_group()
        assert not data.pgdata.exists()
        with attach(data.root) as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        assert not list(data.root.glob("postgres.new-*"))


def test_release_twice_is_fine(data: DataDir) -> None:
    server = attach(data.root)
    with attach(data.root):
        server.release()
        server.release()
        assert not wait_stopped(data.root, 0)
    assert wait_stopped(data.root, PATIENCE)


def test_wait_stopped_of_what_never_ran() -> None:
    with temporary_place() as place:
        assert wait_stopped(place, 0)


def test_progress_says_what_takes_long() -> None:
    with temporary_place() as place:
        steps: list[str] = []
        with attach(place / "data", progress=steps.append):
            assert steps == ["Creating the database cluster", "Starting PostgreSQL 16"]
            attach(place / "data", progress=steps.append).release()
            assert len(steps) == 2
