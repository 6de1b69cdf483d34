"""`duro demo` as a user runs it: a process with processes of its own, on real PostgreSQL."""

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from schema.database import Database
from schema.embedded.waiting import wait_until
from tests.support.places import temporary_place

pytestmark = pytest.mark.drill

PATIENCE_S = 60


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    """TMPDIR of the demo's."""
    with temporary_place() as place:
        yield place


@pytest.fixture
def configured(db_url: str, key: bytes) -> dict[str, str]:
    return {"DURO_DATABASE_URL": db_url, "DURO_SECRET_KEY": b64encode(key).decode()}


@contextmanager
def demo(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURO_")}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "service.cli", "demo", *arguments],
        env={**clean, **environment},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> dict[int, str]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return {
        int(pid): args
        for pid, _, args in (line.strip().partition(" ") for line in listed.stdout.splitlines())
    }


def at_work(process: subprocess.Popen[str], deliveries: int = 1) -> dict[int, str]:
    """Its worker and receiver by pid, once so many deliveries have been made."""
    until_told(process, lambda made, _expected: made >= deliveries)
    return {pid: args for pid, args in children(process).items() if "service." in args}


def until_told(process: subprocess.Popen[str], enough: Callable[[int, int], bool]) -> None:
    """Of how many deliveries were made, and how many are expected."""
    for line in process.stderr:
        told = re.search(r"(\d+) of (\d+) deliveries made", line.replace(",", ""))
        if told and enough(int(told[1]), int(told[2])):
            return
    raise AssertionError("it ended before that")


def gone(pids: Mapping[int, str]) -> bool:
    return wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), PATIENCE_S)


def test_the_main_job_is_done_in_a_place_that_is_gone_afterwards(own_tmp: Path, tmp_path: Path) -> None:
    """Nothing is configured, and the working directory has folders with our packages' names."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise RuntimeError('not ours')")
    with demo(["--events", "200", "--json"], {"TMPDIR": str(own_tmp)}, tmp_path) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    told = json.loads(out)
    assert told["ok"]
    assert told["problems"] == []
    assert 200 <= told["committed"] < 250, (
        "as many as were asked for, and what the last transactions had more"
    )
    assert told["expected"] == told["delivered"] == told["verified"] > 100
    assert told["rolled_back"] > 0
    assert 0 < told["retried"] < told["expected"]
    assert told["lost"] == told["wrong"] == told["unverified"] == 0
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert list(own_tmp.iterdir()) == []


def interrupted(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether it and both its processes have ended as they should."""
    started = at_work(process)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    return (process.returncode, len(started), gone(started)) == (130, 2, True)


def test_ctrl_c_leaves_nothing_behind(own_tmp: Path) -> None:
    with demo(["--events", "5000"], {"TMPDIR": str(own_tmp)}) as process:
        assert interrupted(process, signal.SIGINT)
    assert list(own_tmp.iterdir()) == []


async def test_sigterm_ends_it_in_order_too(configured: dict[str, str], database: Database) -> None:
    """In a database that stays, nothing goes on sending to a receiver that is gone."""
    with demo(["--events", "5000"], configured) as process:
        assert interrupted(process, signal.SIGTERM)
    assert await endpoints(database) == (6, 0)


async def endpoints(database: Database) -> tuple[int, int]:
    """How many there are, and how many of them enabled."""
    row = await database.core.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE enabled) AS enabled FROM webhook_endpoints"
    )
    return tuple(row)


async def test_it_fails_when_the_worker_dies_and_says_so(
    configured: dict[str, str], database: Database
) -> None:
    with demo(["--events", "5000"], configured) as process:
        started = at_work(process, deliveries=10)
        (worker,) = (pid for pid, args in started.items() if "service.cli" in args)
        os.kill(worker, signal.SIGSTOP)  # and killed later: there must be something that it did not deliver
        until_told(process, lambda made, expected: expected - made >= 20)
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "duro: The demo failed. The worker ended by itself."
    assert "did not arrive" in out
    assert "duro event show evt_" in out
    assert await endpoints(database) == (6, 0)


def test_its_processes_do_not_outlive_it_even_when_it_is_killed(configured: dict[str, str]) -> None:
    with demo(["--events", "5000"], configured) as process:
        started = at_work(process)
        process.kill()
        assert len(started) == 2
        assert gone(started)


def test_two_at_once_in_one_database_do_not_disturb_each_other(configured: dict[str, str]) -> None:
    with (
        demo(["--events", "40", "--json"], configured) as one,
        demo(["--events", "40", "--json"], configured) as other,
    ):
        told = [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in (one, other)]
    assert [figures["problems"] for figures in told] == [[], []]
    assert all(40 <= figures["committed"] < 80 for figures in told)


def test_a_data_directory_beside_a_configured_database_is_refused(configured: dict[str, str]) -> None:
    with demo(["--data-dir", "/nowhere"], configured) as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert err.startswith("duro: --data-dir is for the embedded database")
