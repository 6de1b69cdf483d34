"""Ends a long-running command: the first SIGINT or SIGTERM drains it, a second one ends it immediately."""

import asyncio
import os
import signal
from typing import Final

INTERRUPTED: Final = 130


def stop_on_signals() -> asyncio.Event:
    """Returns an event that the first signal sets. Call it in the running loop."""
    stop = asyncio.Event()

    signalled = False  # `stop` may already be set: a child's input may close before its signal arrives

    def received() -> None:
        nonlocal signalled
        if signalled:
            os._exit(INTERRUPTED)  # as after a kill: other workers take over leases and attempts
        signalled = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received)
    return stop
