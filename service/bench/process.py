"""A child process of the benchmark: one line of JSON in, one line of JSON out. dialogue.py is the child's side."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import orjson

from schema.errors import Unavailable
from service.child_process import ChildProcess, child_process

_ANSWERS_WITHIN_S: Final = 30.0
_LAST_WORDS: Final = 3


class Process:
    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self.pid = child.pid
        self.kill = child.kill
        self._numbers = count()

    async def ask(self, question: Mapping[str, Any], within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """Its answer. Raises Unavailable when it ends or says nothing in time."""
        number = next(self._numbers)
        await self._child.write(orjson.dumps({**question, "number": number}) + b"\n")
        while (heard := await self.hear(within_s))["number"] != number:
            pass  # the answer to a question that was given up
        answer: dict[str, Any] = heard["answer"]
        return answer

    async def hear(self, within_s: float = _ANSWERS_WITHIN_S) -> dict[str, Any]:
        """The next line, as it is."""
        try:
            async with asyncio.timeout(within_s):
                line = await self._child.readline()
        except TimeoutError:
            raise Unavailable(f"The {self._child.name} said nothing for {within_s:g} s.") from None
        if not line:
            await self._child.ended
            raise Unavailable(f"The {self._child.name} ended by itself: {self.last_words}")
        said: dict[str, Any] = orjson.loads(line)
        return said

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def last_words(self) -> str:
        return " ".join(list(self._child.log)[-_LAST_WORDS:]) or "it said nothing"


@asynccontextmanager
async def process(
    name: str, python_arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    async with child_process(name, python_arguments, environment) as child:
        yield Process(child)
