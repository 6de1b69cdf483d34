"""How a long-running command ends: the first SIGINT or SIGTERM asks it to drain, a second one cuts it off."""

import asyncio
import os
import signal
from typing import Final

INTERRUPTED: Final = 130


def stop_on_signals() -> asyncio.Event:
    """Set by the first signal. Call it in the running loop."""
    stop = asyncio.Event()

    signalled = False  # `stop` may be set already: a child's input closes while its own signal is on the way

    def received() -> None:
        nonlocal signalled
        if signalled:
            os._exit(INTERRUPTED)  # leases and sends are as after a kill: others take over
        signalled = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received)
    return stop
