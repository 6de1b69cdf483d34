"""A child process of the benchmark: one line of JSON in, one line of JSON out.

The child runs child_requests.py.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import orjson

from schema.errors import Unavailable
from service.child_process import ChildProcess, child_process

_ANSWERS_WITHIN_S: Final = 30.0
_LAST_OUTPUT_LINES: Final = 3


class Process:
    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self.pid = child.pid
        self.kill = child.kill
        self._numbers = count()

    async def ask(self, question: Mapping[str, Any], within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """Returns the answer. Raises Unavailable if the process ends or does not answer in time."""
        number = next(self._numbers)
        await self._child.write(orjson.dumps({**question, "number": number}) + b"\n")
        while (received := await self.read(within_s))["number"] != number:
            pass  # a late answer to a question that timed out
        answer: dict[str, Any] = received["answer"]
        return answer

    async def read(self, within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """Returns the next line of output, decoded from JSON."""
        try:
            async with asyncio.timeout(within_s):
                line = await self._child.readline()
        except TimeoutError:
            raise Unavailable(f"The {self._child.name} did not answer within {within_s:g} s.") from None
        if not line:
            await self._child.ended
            raise Unavailable(f"The {self._child.name} ended unexpectedly: {self.last_output}")
        received: dict[str, Any] = orjson.loads(line)
        return received

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def last_output(self) -> str:
        return " ".join(list(self._child.log)[-_LAST_OUTPUT_LINES:]) or "no output"


@asynccontextmanager
async def process(
    name: str, python_arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    async with child_process(name, python_arguments, environment) as child:
        yield Process(child)
