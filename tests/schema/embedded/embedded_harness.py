"""Data directories and attached processes for tests of the embedded server."""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import asyncpg

from schema.embedded import attach, wait_stopped
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import is_held
from schema.embedded.process.waiting import wait_until
from tests.support.servers.directories import new_directory, temporary_directory

IS_ROOT = os.geteuid() == 0
PATIENCE = 30.0  # upper limit for waits; far longer than they take
REPOSITORY = Path(__file__).resolve().parents[3]

USER_SCRIPT = """
import json, sys
from pathlib import Path
from typing import Self
from schema.embedded import attach

def send(**what):
    print(json.dumps(what), flush=True)

with attach(Path(sys.argv[1]), progress=lambda step: send(step=step)) as server:
    send(url=server.owner_url)
    sys.stdin.read()
"""


class AttachedProcess:
    """A separate process that attaches and stays until its standard input ends."""

    def __init__(
        self, data_dir: Path, *, command: tuple[str, ...] = (sys.executable,), **options: object
    ) -> None:
        self.process = subprocess.Popen(
            [*command, "-c", USER_SCRIPT, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **{"cwd": REPOSITORY, **options},
        )

    def wait_for(self, key: str) -> str:
        """Waits for the first line with `key` and returns its value."""
        for line in self.process.stdout:
            message = json.loads(line)
            if key in message:
                return message[key]
        raise AssertionError(self.process.stderr.read().decode())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def kill_group(self) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill_group()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


@contextmanager
def stopped_cluster() -> Iterator[DataDir]:
    """A data directory with a cluster that is not running."""
    with temporary_directory() as directory:
        data = DataDir(directory / "data")
        subprocess.run(["cp", "-a", _template(), data.root], check=True)
        yield data


@functools.cache
def _template() -> Path:
    directory = new_directory()
    atexit.register(shutil.rmtree, directory)
    attach(directory / "data").release()
    assert wait_stopped(directory / "data", PATIENCE)
    (directory / "data" / "address.json").unlink()  # each copy chooses its own port
    return directory / "data"


def postmaster_pid(data: DataDir) -> int:
    return int(data.pid_file.read_text().split()[0])


def keeper_pids(data: DataDir) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-f", f"schema.embedded.process.keeper {data.root} "],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in found.stdout.split()]


def everything_stopped(data: DataDir) -> bool:
    """Waits until neither a server nor a keeper is left."""
    return wait_until(lambda: not is_held(data.server_lock) and not keeper_pids(data), PATIENCE)


async def query(url: str, sql: str, *arguments: object) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()
