"""The child's side of Process: answers each JSON line on standard input with one on standard output.

    stdin  ◄ {"number": 7, …question}        stdout ► {"number": 7, "answer": …}

The parent may have timed out in the meantime. The number lets it discard a late answer.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from service.child_process import stdin_reader


def write_line(answer: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


async def answer_questions(answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
    """Answers until standard input ends, which also cancels the answer in progress."""
    questions = await stdin_reader()
    coming = asyncio.ensure_future(questions.readline())
    while line := await coming:
        coming = asyncio.ensure_future(questions.readline())
        question = orjson.loads(line)
        making = asyncio.ensure_future(answer(question))
        await asyncio.wait((making, coming), return_when=asyncio.FIRST_COMPLETED)
        if not making.done() and not coming.result():
            making.cancel()
            return
        write_line({"number": question["number"], "answer": await making})
