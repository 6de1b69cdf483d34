"""`duro demo` as a user runs it: real processes on a real PostgreSQL."""

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

from schema.connections.database import Database
from schema.embedded.process.waiting import wait_until
from tests.support.servers.directories import temporary_directory

pytestmark = pytest.mark.drill

PATIENCE_S = 60


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    """The demo's TMPDIR."""
    with temporary_directory() as directory:
        yield directory


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


def running_processes(process: subprocess.Popen[str], deliveries: int = 1) -> dict[int, str]:
    """Returns its worker and receiver by pid, once that many deliveries are done."""
    wait_for_progress(process, lambda made, _expected: made >= deliveries)
    return {pid: args for pid, args in children(process).items() if "service." in args}


def wait_for_progress(process: subprocess.Popen[str], enough: Callable[[int, int], bool]) -> None:
    """Waits until `enough` accepts the delivered and the expected count."""
    for line in process.stderr:
        result = re.search(r"(\d+) of (\d+) deliveries made", line.replace(",", ""))
        if result and enough(int(result[1]), int(result[2])):
            return
    raise AssertionError("the demo ended first")


def gone(pids: Mapping[int, str]) -> bool:
    return wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), PATIENCE_S)


def test_the_demo_passes_on_a_temporary_database(own_tmp: Path, tmp_path: Path) -> None:
    """Nothing is configured. The working directory has folders with our packages' names."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise RuntimeError('not ours')")
    with demo(["--events", "200", "--json"], {"TMPDIR": str(own_tmp)}, tmp_path) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    result = json.loads(out)
    assert result["ok"]
    assert result["problems"] == []
    assert 200 <= result["committed"] < 250, "the requested number, plus the rest of the last transactions"
    assert result["expected"] == result["delivered"] == result["verified"] > 100
    assert result["rolled_back"] > 0
    assert 0 < result["retried"] < result["expected"]
    assert result["lost"] == result["wrong"] == result["unverified"] == 0
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert list(own_tmp.iterdir()) == []


def interrupted(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Returns whether the demo and both its processes have ended."""
    started = running_processes(process)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    return (process.returncode, len(started), gone(started)) == (130, 2, True)


def test_ctrl_c_removes_everything(own_tmp: Path) -> None:
    with demo(["--events", "5000"], {"TMPDIR": str(own_tmp)}) as process:
        assert interrupted(process, signal.SIGINT)
    assert list(own_tmp.iterdir()) == []


async def test_sigterm_disables_its_endpoints(configured: dict[str, str], database: Database) -> None:
    """In a persistent database, nothing sends to the ended receiver afterwards."""
    with demo(["--events", "5000"], configured) as process:
        assert interrupted(process, signal.SIGTERM)
    assert await endpoints(database) == (6, 0)


async def endpoints(database: Database) -> tuple[int, int]:
    """Returns how many endpoints exist, and how many are enabled."""
    row = await database.core.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE enabled) AS enabled FROM webhook_endpoints"
    )
    return tuple(row)


async def test_a_killed_worker_fails_the_demo(configured: dict[str, str], database: Database) -> None:
    with demo(["--events", "5000"], configured) as process:
        started = running_processes(process, deliveries=10)
        (worker,) = (pid for pid, args in started.items() if "service.cli" in args)
        os.kill(worker, signal.SIGSTOP)  # killed later, so that some deliveries are missing
        wait_for_progress(process, lambda made, expected: expected - made >= 20)
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "duro: The demo failed. The worker ended unexpectedly."
    assert "did not arrive" in out
    assert "duro event show evt_" in out
    assert await endpoints(database) == (6, 0)


def test_its_processes_end_when_it_is_killed(configured: dict[str, str]) -> None:
    with demo(["--events", "5000"], configured) as process:
        started = running_processes(process)
        process.kill()
        assert len(started) == 2
        assert gone(started)


def test_two_demos_in_one_database_do_not_interfere(configured: dict[str, str]) -> None:
    with (
        demo(["--events", "40", "--json"], configured) as one,
        demo(["--events", "40", "--json"], configured) as other,
    ):
        result = [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in (one, other)]
    assert [figures["problems"] for figures in result] == [[], []]
    assert all(40 <= figures["committed"] < 80 for figures in result)


def test_data_dir_conflicts_with_a_configured_database(configured: dict[str, str]) -> None:
    with demo(["--data-dir", "/nowhere"], configured) as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert err.startswith("duro: --data-dir is for the embedded database")
