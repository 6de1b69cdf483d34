"""One misbehaving connection, and a check that no other delivery is affected."""

import socket
import ssl
import struct
from collections.abc import Callable

from delivery.http.attempt_contract import AttemptResult, Outcome
from tests.delivery.http.raw_receiver import BODY, Behaviour, Peer, receiving, sending, to, until

MINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine"
SLACK_MS = 1500
"""For a busy machine."""


async def provoke(
    misbehave: Behaviour,
    *,
    tls: ssl.SSLContext | None = None,
    trust: Callable[[], ssl.SSLContext] | None = None,
    body: bytes = BODY,
    attempt_timeout: float = 5.0,
) -> AttemptResult:
    """The result of an attempt whose connection misbehaves. The next delivery must get its own response."""

    async def behave(peer: Peer) -> None:
        if peer.number == 1:
            await misbehave(peer)
        while True:
            await peer.request()
            await peer.answer(MINE)

    async with (
        receiving(behave, tls=tls) as receiver,
        sending(tls=trust, attempt_timeout=attempt_timeout) as sender,
    ):
        url = f"{'https' if trust else 'http'}://127.0.0.1:{receiver.port}/"
        result = await sender.send(to(url, body=body))
        await until(lambda: sender.in_use == 0)
        after = await sender.send(to(url))
        assert (after.outcome, after.response_body) == (Outcome.OK, b"mine")
        await until(lambda: sender.in_use == 0)
        assert sender.idle <= 1

    assert result.timings.total < attempt_timeout * 1000 + SLACK_MS
    assert "internal" not in (result.error or "")
    return result


def reset(peer: Peer) -> None:
    """Ends the connection by RST."""
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()
