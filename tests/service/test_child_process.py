"""A child process ends on request, leaves no process behind, and its last error lines are kept."""

import asyncio
import signal

import pytest

from service.child_process import child_process
from tests.support.servers.duro_process import eventually, processes_in_group

READS_STDIN = "import sys; print('ready', flush=True); sys.stdin.read(); sys.exit(7)"
IGNORES_EVERYTHING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


async def test_closing_its_input_ends_it() -> None:
    async with child_process("child", ("-c", READS_STDIN)) as child:
        assert await child.readline() == b"ready\n"
        assert await child.end() == 7
        assert not child.running
        await child.write(b"into the void\n")


async def test_an_unresponsive_child_is_killed_with_its_group() -> None:
    async with child_process("child", ("-c", IGNORES_EVERYTHING)) as child:
        assert await child.readline() == b"ready\n"
        assert len(processes_in_group(child.pid)) == 2
        assert await child.end(0.05) is None
        assert await child.terminate(0.05) is None
        child.kill()
        assert await child.ended == -signal.SIGKILL
    await eventually(lambda: not processes_in_group(child.pid), "nothing is left of the group")


async def test_each_line_is_passed_on_immediately() -> None:
    lines: list[bytes] = []
    async with child_process("child", ("-c", "for n in range(3): print(n)"), on_line=lines.append) as child:
        assert await child.ended == 0
        assert lines == [b"0\n", b"1\n", b"2\n"]


async def test_its_last_error_lines_are_kept_and_bounded() -> None:
    script = "import sys; [print('line', n, file=sys.stderr) for n in range(50)]; sys.stderr.write('x' * 2_000_000)"
    async with child_process("child", ("-c", script)) as child:
        await child.ended
    assert list(child.log) == [*(f"line {n}" for n in range(31, 50)), "x" * 300]


async def test_it_does_not_inherit_the_user_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURO_PORT", "1")
    script = "import os; print(os.environ.get('DURO_PORT'), os.environ['DURO_HOST'])"
    async with child_process("child", ("-c", script), {"DURO_HOST": "::1"}) as child:
        assert await child.readline() == b"None ::1\n"


async def test_an_exception_leaves_no_process_behind() -> None:
    with pytest.raises(asyncio.TimeoutError):
        async with child_process("child", ("-c", READS_STDIN)) as child:
            raise TimeoutError
    assert not processes_in_group(child.pid)
