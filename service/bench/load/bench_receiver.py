"""A receiver fast enough never to be the bottleneck: it finds the end of each request, sends a fixed response and counts.

    stdout ► {"plain": port, "tls": port}               once it listens
    stdin  ◄ {"do": "reset", "track": true}             resets the counts; tracks each event's first byte
    stdin  ◄ {"do": "report"}                           ► Report
    stdin  ◄ {"do": "tracked"}                          ► {"ids": [evt_…], "at": [ns]}
    stdin  ◄ end                                        stops it

Requests to /hang/… are read and never answered. Times are CLOCK_MONOTONIC, which all processes share.
"""

import asyncio
import re
import ssl
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import uvloop

from service.bench.processes.child_requests import answer_questions, write_line

HOST: Final = "127.0.0.1"
HANG: Final = "/hang/"
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_ID: Final = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)
_BACKLOG: Final = 4096


@dataclass(frozen=True, slots=True)
class Report:
    """What has arrived since the last `reset`. Hanging requests appear in `hung` only."""

    count: int
    hung: int
    bad: int
    """Requests without Content-Length."""
    connections: int
    body_bytes: int
    wire_bytes: int
    """Heads included."""
    first_ns: int
    at_10_ns: int
    """When a tenth of the requests had arrived."""
    at_90_ns: int
    last_ns: int


class Arrivals:
    def __init__(self) -> None:
        self.reset(track=False)

    def reset(self, *, track: bool) -> None:
        self.track = track
        self.times = array("q")
        self.ids: list[str] = []
        self.hung = self.bad = self.connections = self.body_bytes = self.wire_bytes = 0

    def report(self) -> Report:
        times, count = self.times, len(self.times)
        marks = (
            (0, 0, 0, 0) if not count else (times[0], times[count // 10], times[count * 9 // 10], times[-1])
        )
        return Report(count, self.hung, self.bad, self.connections, self.body_bytes, self.wire_bytes, *marks)


class ReceivingProtocol(asyncio.Protocol):
    """One connection.

    Between requests `_head` holds the start of the next. Within one, `_missing` counts down.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._first_byte_ns = 0
        self._missing = 0
        self._hang = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are not subclasses
        self._arrivals.connections += 1

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self._head and not self._missing:
            self._first_byte_ns = now
        while data:
            data = self._take(data)
            self._first_byte_ns = now

    def _take(self, data: bytes) -> bytes:
        """Returns the part of `data` that follows the current request."""
        if self._missing:
            taken = min(self._missing, len(data))
            self._missing -= taken
            if not self._missing:
                self._answer()
            return data[taken:]
        head = self._head + data
        end = head.find(b"\r\n\r\n")
        if end < 0:
            self._head = head
            return b""
        self._head = b""
        self._missing = self._read(head, end)
        if not self._missing:
            self._answer()
        return head[end + 4 :]

    def _read(self, head: bytes, end: int) -> int:
        """Counts the request and returns the length of its body."""
        arrivals = self._arrivals
        found = _LENGTH.search(head, 0, end + 2)
        length = int(found[1]) if found else 0
        self._hang = head.startswith(b"POST /hang/")
        if found is None:
            arrivals.bad += 1
        if not self._hang:
            arrivals.body_bytes += length
            arrivals.wire_bytes += end + 4 + length
            if arrivals.track and (id_ := _ID.search(head, 0, end + 2)):
                arrivals.ids.append(id_[1].decode())
                arrivals.times.append(self._first_byte_ns)
        return length

    def _answer(self) -> None:
        assert self._transport
        if self._hang:
            self._arrivals.hung += 1
            return
        if not self._arrivals.track:
            self._arrivals.times.append(time.monotonic_ns())
        self._transport.write(ANSWER)


async def _serve(certificate: str, key: str) -> None:
    arrivals = Arrivals()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    plain, tls = [
        await loop.create_server(lambda: ReceivingProtocol(arrivals), HOST, 0, ssl=secure, backlog=_BACKLOG)
        for secure in (None, context)
    ]
    write_line({"plain": plain.sockets[0].getsockname()[1], "tls": tls.sockets[0].getsockname()[1]})

    async def answer(question: dict[str, Any]) -> Any:
        match question["do"]:
            case "reset":
                arrivals.reset(track=question["track"])
                return {}
            case "report":
                return asdict(arrivals.report())
            case "tracked":
                return {"ids": arrivals.ids, "at": arrivals.times.tolist()}

    await answer_questions(answer)


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
