"""Measures the receiver alone with a minimal client: it writes fixed bytes and reads fixed bytes.

stdin  ◄ {"port": …, "body_bytes": …, "seconds": …}
stdout ► {"count": …, "seconds": …, "cpu_s": …}
"""

import asyncio
import time
from typing import Any, Final, cast

import uvloop

from service.bench.load.bench_receiver import ANSWER, HOST
from service.bench.load.payload import webhook
from service.bench.processes.child_requests import answer_questions

CONNECTIONS: Final = 100


class PostingProtocol(asyncio.Protocol):
    """Sends the next request after each response, until `over_at`."""

    def __init__(self, request: bytes, over_at: float) -> None:
        self._request = request
        self._over_at = over_at
        self._awaited = len(ANSWER)
        self._transport: asyncio.Transport | None = None
        self.count = 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are not subclasses
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        assert self._transport
        self._awaited -= len(data)
        if self._awaited:
            return
        self.count += 1
        self._awaited = len(ANSWER)
        if time.monotonic() < self._over_at:
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed.set_result(None)


async def post_for(question: dict[str, Any]) -> dict[str, Any]:
    body, headers = webhook(question["body_bytes"])
    lines = [f"Host: {HOST}:{question['port']}", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(("POST /0 HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""))
    request = head.encode() + body
    loop = asyncio.get_running_loop()
    cpu, began = time.process_time(), time.monotonic()
    posting = [
        (
            await loop.create_connection(
                lambda: PostingProtocol(request, began + question["seconds"]), HOST, question["port"]
            )
        )[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(each.closed for each in posting))
    return {
        "count": sum(each.count for each in posting),
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
    }


if __name__ == "__main__":
    uvloop.run(answer_questions(post_for))
