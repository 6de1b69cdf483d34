"""A child worker process runs, stops in order, and is never left behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from uuid import UUID

import pytest

from schema.connections.database import Database
from schema.modes import Mode
from service.worker import child_worker
from service.worker.child_worker import ChildWorker
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.servers.duro_process import REPOSITORY, eventually, settings
from tests.support.servers.receiver import Answer, receiving

PARENT = """
import asyncio
from service.worker.child_worker import ChildWorker
asyncio.run(ChildWorker({}).run(asyncio.Event()))
"""


async def registered(database: Database) -> int:
    count: int = await database.core.fetchval("SELECT count(*) FROM workers")
    return count


async def is_registered(database: Database) -> bool:
    return await registered(database) == 1


async def none_left(database: Database) -> bool:
    return await registered(database) == 0


def children() -> list[int]:
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, mine) if b"--until-stdin-closes" in _command_of(pid)]


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_it_runs_until_stopped_and_unregisters(database: Database, db_url: str, key: bytes) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(ChildWorker(settings(db_url, key)).run(stop))
    await eventually(lambda: is_registered(database), "the child registers")
    assert len(children()) == 1
    stop.set()
    async with asyncio.timeout(10):
        await running
    assert await none_left(database), "it unregistered"
    assert children() == []


async def test_a_killed_child_raises(database: Database, db_url: str, key: bytes) -> None:
    running = asyncio.create_task(ChildWorker(settings(db_url, key)).run(asyncio.Event()))
    await eventually(lambda: is_registered(database), "the child registers")
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended unexpectedly with status -9"):
        await asyncio.wait_for(running, 10)


async def test_a_child_that_does_not_stop_is_killed(
    database: Database, db_url: str, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_worker, "_STOP_WITHIN_S", 0.1)
    stop = asyncio.Event()
    running = asyncio.create_task(ChildWorker(settings(db_url, key)).run(stop))
    await eventually(lambda: is_registered(database), "the child registers")
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    stop.set()
    await asyncio.wait_for(running, 10)
    assert children() == []


async def test_a_cancelled_parent_leaves_nothing_behind(db_url: str, key: bytes) -> None:
    """The cancellation may happen while the child starts."""
    for turns in (0, 1, 5):
        running = asyncio.create_task(ChildWorker(settings(db_url, key)).run(asyncio.Event()))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: children() == [], "the child is gone")


async def test_it_ends_when_its_parent_is_killed(database: Database, db_url: str, key: bytes) -> None:
    """After SIGKILL of the parent, the closed pipe ends it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DURO_")}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, env={**environment, **settings(db_url, key)}, cwd=REPOSITORY
    )
    await eventually(lambda: is_registered(database), "the child registers")
    parent.kill()
    await parent.wait()
    await eventually(lambda: none_left(database), "the child leaves")


async def test_a_signal_after_its_input_ended_is_the_first(
    database: Database, db_url: str, key: bytes, tenant: UUID
) -> None:
    """Ctrl-C reaches the child too. Its parent may have closed the pipe before, which does not count as a signal."""
    held = asyncio.Event()
    async with receiving() as receiver:
        receiver.answer = lambda _request: Answer(held_by=held)
        await add_endpoint(database, tenant, receiver.url)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "service.cli", "work", "--until-stdin-closes"),
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **settings(db_url, key)},
            cwd=REPOSITORY,
        )
        assert child.stdin is not None
        await record(database.data(Mode.TEST), tenant)
        await receiver.requests.count(1)
        child.stdin.close()
        await asyncio.sleep(0.3)  # no signal shows when it has read the end
        child.send_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
        held.set()
        assert await asyncio.wait_for(child.wait(), 20) == 0
    assert await none_left(database)
