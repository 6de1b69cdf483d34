"""When a TLS connection counts as a flood, and that nothing is watched for longer than it is open."""

import socket

import pytest

from delivery.http import tls_watch
from delivery.http.attempt_contract import Outcome
from delivery.http.tls_watch import MAX_EXCESS, TlsWatch, WatchedSocket
from tests.delivery.http.raw_receiver import Peer, receiving, sending, to


async def test_bytes_up_to_the_limit_are_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = WatchedSocket(ours)
        monkeypatch.setattr(tls_watch, "bytes_received", lambda _sock: MAX_EXCESS)
        assert watched.check()
        assert not watched.flooded
        monkeypatch.setattr(tls_watch, "bytes_received", lambda _sock: MAX_EXCESS + 1)
        assert not watched.check()
        assert watched.flooded


async def test_a_closed_connection_is_no_longer_watched() -> None:
    ours, theirs = socket.socketpair()
    watch = TlsWatch()
    watch.add(ours)
    ours.close()
    theirs.close()
    assert watch._timer is not None
    watch._timer.cancel()
    watch._check()
    assert (watch._watched, watch._timer) == (set(), None)


async def test_a_failed_handshake_is_no_longer_watched() -> None:
    async def hang_up(_peer: Peer) -> None:
        pass

    async with receiving(hang_up) as receiver, sending() as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
        assert result.outcome is Outcome.TLS
        assert sender._pool._dialler._tls_watch._watched == set()
