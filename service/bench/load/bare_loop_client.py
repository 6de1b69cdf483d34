"""The baseline: a bare aiohttp client loop that posts the same bytes, without database, signing, retries or state.

    stdin  ◄ {"url": …, "body_bytes": …, "count": …, "paths": …, "within_s": …}
    stdout ► {"count": …, "failed": …, "seconds": …, "cpu_s": …}

100 coroutines share a session without a connection limit. Body, headers and URLs are built once. This is aiohttp at
its fastest: a slower baseline would flatter duro.
"""

import asyncio
import time
from typing import Any, Final

import aiohttp
import uvloop
from multidict import CIMultiDict
from yarl import URL

from service.bench.load.payload import webhook
from service.bench.processes.child_requests import answer_questions

COROUTINES: Final = 100
_SKIPPED_HEADERS: Final = ("Accept", "Accept-Encoding")  # duro does not send them either


async def post_all(question: dict[str, Any]) -> dict[str, Any]:
    body, headers = webhook(question["body_bytes"])
    fixed = CIMultiDict(headers)
    urls = [URL(f"{question['url']}/{number}") for number in range(question["paths"])]
    numbers = iter(range(question["count"]))
    done = failed = 0
    over_at = time.monotonic() + question["within_s"]

    async def post(session: aiohttp.ClientSession) -> None:
        nonlocal done, failed
        for number in numbers:
            if time.monotonic() > over_at:
                return
            async with session.post(urls[number % len(urls)], data=body, headers=fixed) as response:
                await response.read()
                done += 1
                failed += response.status != 200

    cpu, began = time.process_time(), time.monotonic()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_SKIPPED_HEADERS,
    ) as session:
        await asyncio.gather(*(post(session) for _ in range(COROUTINES)))
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
    return {"count": done, "failed": failed, "seconds": seconds, "cpu_s": cpu_s}


if __name__ == "__main__":
    uvloop.run(answer_questions(post_all))
