"""Running out of descriptors is a local fault, and idle connections are closed first.

Runs in its own process with a low limit.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from resource import RLIMIT_NOFILE, setrlimit

import pytest

from delivery.http.attempt_contract import Outcome
from tests.delivery.http.raw_receiver import Peer, always_ok, receiving, sending, to, until


def lower_limit(more: int) -> None:
    """Allows at most `more` new descriptors: the open ones have consecutive numbers."""
    with open("/dev/null") as probe:  # noqa: PTH123  only its descriptor number matters
        lowest_free = probe.fileno()
    setrlimit(RLIMIT_NOFILE, (lowest_free + more, lowest_free + more))


async def idle_ones_make_room() -> None:
    together = asyncio.Barrier(6)

    async def answer_together(peer: Peer) -> None:
        await peer.request()
        await together.wait()
        await peer.answer()
        await always_ok(peer)

    async with receiving(answer_together) as receiver, receiving() as other, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await asyncio.gather(*(sender.send(request) for _ in range(6)))
        assert sender.idle == 6
        lower_limit(0)
        result = await sender.send(to(f"http://127.0.0.1:{other.port}/"))
        assert result.outcome is Outcome.OK, result
        assert sender.idle == 1


async def none_is_left() -> None:
    async def silent(peer: Peer) -> None:
        await peer.hung_up()

    async with receiving(silent) as receiver, sending(attempt_timeout=1) as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        first = asyncio.create_task(sender.send(request))
        await until(lambda: receiver.connections == 1)
        lower_limit(0)
        results = await asyncio.gather(*(sender.send(request) for _ in range(5)))
        seen = Counter((result.outcome, result.error, result.local_fault) for result in results)
        assert seen == {(Outcome.CONNECT, "the sender ran out of file descriptors", True): 5}, seen
        assert (await first).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("what", [idle_ones_make_room, none_is_left], ids=lambda what: what.__name__)
def test_running_out_of_descriptors_is_a_local_fault(what: object) -> None:
    command = [sys.executable, "-m", __name__, what.__name__]  # type: ignore[attr-defined]  a function
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Out of file descriptors") == 1


if __name__ == "__main__":
    import uvloop

    uvloop.run(globals()[sys.argv[1]]())
