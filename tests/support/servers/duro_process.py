"""Runs `duro` as users do: in a separate process with its own process group."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0
SIGINT_IGNORED = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""A command prefix with the effect of `&` in a script."""


@dataclass
class DuroProcess:
    process: asyncio.subprocess.Process
    _stderr: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    async def said(self) -> dict[str, Any]:
        """Returns the JSON line that it prints when it is ready. Fails with its stderr if it ends first."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line, self.stderr
        said: dict[str, Any] = json.loads(line)
        return said

    async def ended(self, within_s: float = PATIENCE_S) -> int:
        """Waits for the end and returns the exit status."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@asynccontextmanager
async def duro(
    *arguments: str,
    env: Mapping[str, str],
    prefix: Sequence[str] = (),
    module: Sequence[str] = ("service.cli",),
) -> AsyncIterator[DuroProcess]:
    """Starts it, and kills its whole group at the end. It does not inherit DURO_ settings.

    `prefix` is a command that runs it (ip netns exec …). `module` is the Python module and its leading arguments.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DURO_")}
    with tempfile.TemporaryDirectory() as directory:
        stderr = Path(directory) / "stderr"
        with stderr.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                sys.executable,
                "-m",
                *module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**inherited, **env},
                cwd=REPOSITORY,
                start_new_session=True,
            )
        started = DuroProcess(process, stderr)
        try:
            yield started
        finally:
            started.kill_group()
            await process.wait()


def settings(url: str, key: bytes, **more: str) -> dict[str, str]:
    """Returns an environment for `duro` on this database that allows loopback receivers."""
    return {
        "DURO_DATABASE_URL": url,
        "DURO_SECRET_KEY": b64encode(key).decode(),
        "DURO_EGRESS_ALLOW": "127.0.0.0/8",
        **more,
    }


def processes_in_group(group: int) -> list[int]:
    """Returns the living processes of that group, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


async def eventually(holds: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
    """Polls until `holds` is true, for events without a signal. `holds` may be asynchronous."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = holds()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}") from None
