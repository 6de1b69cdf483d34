"""The child's side of process.py: answers each line of JSON on standard input with one on standard output.

    stdin  ◄ {"number": 7, …question}        stdout ► {"number": 7, "answer": …}

Whoever asked may have given up by then, and tells by the number that an answer is an old one.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from service.child_process import stdin_reader


def say(answer: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


async def answer_questions(answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
    """Until standard input ends, which also cuts off an answer that is being made."""
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
        say({"number": question["number"], "answer": await making})
