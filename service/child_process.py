"""Runs a child process that ends with this one, even after SIGKILL: its standard input is a pipe from this process, and
it stops when the pipe closes.

The child has its own session, so Ctrl-C in a terminal reaches only the parent, which then ends its children in order.
`stdin_reader()` is the child's side.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from service.settings import PREFIX

_LONGEST_LINE: Final = 256 << 20
_LOG_LINES: Final = 20
_LONGEST_LOG_LINE: Final = 300
_STDERR_CHUNK: Final = 1 << 16
_ENDS_WITHIN_S: Final = 25.0
_TERMINATES_WITHIN_S: Final = 5.0


class ChildProcess:
    def __init__(
        self, name: str, process: asyncio.subprocess.Process, on_line: Callable[[bytes], None] | None
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        """The last lines of its standard error."""
        self._process = process
        self.ended = asyncio.create_task(self._follow(on_line))
        """Its exit status, once everything it wrote has been read."""

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def write(self, line: bytes) -> None:
        """Writes to its standard input. Does nothing if the process has ended; `ended` shows that."""
        assert self._process.stdin
        with suppress(ConnectionError):
            self._process.stdin.write(line)
            await self._process.stdin.drain()

    async def readline(self) -> bytes:
        """Returns the next line of its standard output, or nothing after its end.

        Not together with `on_line`.
        """
        assert self._process.stdout
        return await self._process.stdout.readline()

    async def end(self, within_s: float = _ENDS_WITHIN_S) -> int | None:
        """Closes its standard input. Returns the exit status, or None if it did not end in time."""
        assert self._process.stdin
        self._process.stdin.close()
        return await self._wait(within_s)

    async def terminate(self, within_s: float = _TERMINATES_WITHIN_S) -> int | None:
        """Sends SIGTERM. Returns like `end`."""
        if self.running:
            self._process.terminate()
        return await self._wait(within_s)

    def kill(self) -> None:
        """Sends SIGKILL to its whole group."""
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Ends the process in any state, so that none is left behind."""
        try:
            await self.terminate()
        finally:
            self.kill()
            await self._process.wait()
            self.ended.cancel()
            await asyncio.gather(self.ended, return_exceptions=True)

    async def _wait(self, within_s: float) -> int | None:
        done, _ = await asyncio.wait([self.ended], timeout=within_s)
        return self.ended.result() if done else None

    async def _follow(self, on_line: Callable[[bytes], None] | None) -> int:
        reading = [self._follow_errors()] if on_line is None else [self._follow_errors(), self._each(on_line)]
        await asyncio.gather(*reading)
        return await self._process.wait()

    async def _each(self, on_line: Callable[[bytes], None]) -> None:
        while line := await self.readline():
            on_line(line)

    async def _follow_errors(self) -> None:
        """Reads in chunks, because a line may be longer than any limit."""
        assert self._process.stderr
        rest = ""
        while chunk := await self._process.stderr.read(_STDERR_CHUNK):
            *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
            rest = rest[:_LONGEST_LOG_LINE]
            self._keep(lines)
        self._keep([rest])

    def _keep(self, lines: Sequence[str]) -> None:
        self.log.extend(line.rstrip()[:_LONGEST_LOG_LINE] for line in lines if line.strip())


@asynccontextmanager
async def child_process(
    name: str,
    python_arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[bytes], None] | None = None,
) -> AsyncIterator[ChildProcess]:
    """Runs `python ARGUMENTS` without the user's DURO_ settings. `on_line` is called with each line of its output.

    -P: a folder named `service` in the working directory must not shadow the package.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        *python_arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**_clean_environment(), **(environment or {})},
        limit=_LONGEST_LINE,
        start_new_session=True,
    )
    child = ChildProcess(name, process, on_line)
    try:
        yield child
        await child.end()
    finally:
        await asyncio.shield(child.close())


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


async def stdin_reader() -> asyncio.StreamReader:
    """Returns, in the child, its standard input, which ends with the parent."""
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader
