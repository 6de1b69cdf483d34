"""Bounded waiting for what cannot signal: another process's lock, a server's start."""

import time
from collections.abc import Callable
from typing import Final

POLL: Final = 0.02


def wait_until(condition: Callable[[], bool], timeout: float, *, poll: float = POLL) -> bool:
    """Asks at least once; False when `timeout` seconds have passed without a yes."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll)
    return True
