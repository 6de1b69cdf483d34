"""Waits, with a limit, for conditions that cannot signal: another process's lock, a server's start."""

import time
from collections.abc import Callable
from typing import Final

POLL: Final = 0.02


def wait_until(condition: Callable[[], bool], timeout: float, *, poll: float = POLL) -> bool:
    """Checks at least once. Returns False if the condition is still false after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll)
    return True
