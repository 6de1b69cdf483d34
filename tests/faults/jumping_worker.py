"""`python -m tests.faults.jumping_worker 3600,-7200,… work --json`: a worker whose wall clock jumps.

Each SIGUSR1 shifts it by the next of these seconds. Python's time of day jumps; its monotonic clocks do not.
"""

import signal
import sys
import threading
from datetime import UTC, datetime

import time_machine

from service.cli import main


def _jump(traveller: time_machine.Traveller, jumps: list[float]) -> None:
    for seconds in jumps:
        signal.sigwait({signal.SIGUSR1})
        traveller.shift(seconds)


if __name__ == "__main__":
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGUSR1}
    )  # in every thread, because the thread below waits for it
    clock = time_machine.travel(datetime.now(UTC), tick=True).start()
    seconds = [float(text) for text in sys.argv.pop(1).split(",")]
    threading.Thread(target=_jump, args=(clock, seconds), daemon=True).start()
    main()
