"""A child process of the demo's: it speaks in lines, listens on its standard input, and ends when that does.

Children live in a session of their own, so that Ctrl-C in a terminal reaches the demo alone, which then ends
them in order. They do not outlive it even when it is killed: the pipe to their standard input closes.
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

TAIL: Final = 20
_LONGEST_LINE: Final = 1 << 20
_END_WITHIN_S: Final = 5.0


class Child:
    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[bytes], None]) -> None:
        self._process = process
        self.log: deque[str] = deque(maxlen=TAIL)
        """The last lines of its standard error."""
        self.ended = asyncio.create_task(self._follow(on_line))
        """Its exit status, once all it said has been read."""

    async def _follow(self, on_line: Callable[[bytes], None]) -> int:
        assert self._process.stdout
        assert self._process.stderr
        await asyncio.gather(
            _each_line(self._process.stdout, on_line),
            _each_line(
                self._process.stderr, lambda line: self.log.append(line.decode(errors="replace").rstrip())
            ),
        )
        return await self._process.wait()

    async def tell(self, line: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(line)
        await self._process.stdin.drain()

    async def end(self, within_s: float = _END_WITHIN_S) -> int | None:
        """Ends its standard input; its exit status, None when it did not end in time."""
        assert self._process.stdin
        self._process.stdin.close()
        return await self._wait(within_s)

    async def terminate(self, within_s: float = _END_WITHIN_S) -> int | None:
        """As `end`, by SIGTERM."""
        if self._process.returncode is None:
            self._process.terminate()
        return await self._wait(within_s)

    async def _wait(self, within_s: float) -> int | None:
        done, _ = await asyncio.wait([self.ended], timeout=within_s)
        return self.ended.result() if done else None

    async def make_sure(self) -> None:
        """Leaves no process behind, whatever happened before."""
        try:
            await self.terminate()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            self.ended.cancel()


@asynccontextmanager
async def child(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], on_line: Callable[[bytes], None]
) -> AsyncIterator[Child]:
    """-P: a folder named `service` where the user happens to stand must not be taken for ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        limit=_LONGEST_LINE,
        start_new_session=True,
    )
    started = Child(process, on_line)
    try:
        yield started
    finally:
        await started.make_sure()


async def _each_line(stream: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    while line := await stream.readline():
        take(line)
