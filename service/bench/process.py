"""A child process of the benchmark's: one line of JSON in, one line of JSON out.

It leads a session of its own, so Ctrl-C in a terminal reaches the benchmark alone, which then ends it; and it stops
when its standard input closes, so it does not outlive a benchmark that was killed.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Final

import orjson

from schema.errors import Unavailable
from service.settings import PREFIX

_LONGEST_LINE: Final = 256 << 20
_TAIL: Final = 3
_ANSWERS_WITHIN_S: Final = 30.0
_ENDS_WITHIN_S: Final = 25.0
_STDERR_CHUNK: Final = 1 << 16


class Process:
    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log: deque[str] = deque(maxlen=_TAIL)
        self._numbers = count()
        self._reading_errors = asyncio.create_task(self._follow_errors())

    async def ask(self, question: Mapping[str, Any], within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """Its answer. Raises Unavailable when it ends or says nothing in time."""
        assert self._process.stdin
        number = next(self._numbers)
        with suppress(ConnectionError):  # it has ended, which `hear` tells
            self._process.stdin.write(orjson.dumps({**question, "number": number}) + b"\n")
            await self._process.stdin.drain()
        while (heard := await self.hear(within_s))["number"] != number:
            pass  # the answer to a question that was given up
        answer: dict[str, Any] = heard["answer"]
        return answer

    async def hear(self, within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """The next line, as it is."""
        assert self._process.stdout
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Unavailable(f"The {self.name} said nothing for {within_s:g} s.") from None
        if not line:
            await self._process.wait()
            raise Unavailable(f"The {self.name} ended by itself: {self.last_words}")
        said: dict[str, Any] = orjson.loads(line)
        return said

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def last_words(self) -> str:
        return " ".join(self._log) or f"nothing said, status {self._process.returncode}"

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self, within_s: float = _ENDS_WITHIN_S) -> None:
        """Closes its standard input, and kills it when that does not end it in time."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def make_sure(self) -> None:
        self.kill()
        await self._process.wait()
        self._reading_errors.cancel()
        await asyncio.gather(self._reading_errors, return_exceptions=True)

    async def _follow_errors(self) -> None:
        assert self._process.stderr
        while chunk := await self._process.stderr.read(_STDERR_CHUNK):
            self._log.extend(
                line[:300] for line in chunk.decode(errors="replace").splitlines() if line.strip()
            )


@asynccontextmanager
async def process(
    name: str, python_arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """`python ARGUMENTS` without the user's own DURO_ settings. -P: a folder named `service` where the user happens to
    stand must not be taken for ours.
    """
    started = Process(
        name,
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            *python_arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**clean_environment(), **(environment or {})},
            limit=_LONGEST_LINE,
            start_new_session=True,
        ),
    )
    try:
        yield started
        await started.end()
    finally:
        await asyncio.shield(started.make_sure())


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
