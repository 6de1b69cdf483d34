"""`python -m schema.embedded.process.keeper DATA_DIR FD`: restarts the server while processes are attached, then stops it.

FD is the inherited, locked keeper.lock. attach.py describes the protocol.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.installation import find_installation
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.process import server
from schema.errors import DuroError

logger = logging.getLogger("schema.embedded.process.keeper")

POLL: Final = 0.2  # seconds
_STABLE_AFTER: Final = 60.0
_LONGEST_DELAY: Final = 30.0


def restart_delay(failures: int) -> float:
    """Returns the seconds to wait before the next start, after `failures` failed starts."""
    return float(min(_LONGEST_DELAY, 0.5 * 2 ** min(failures, 10)))


class ServerRestarter:
    """Restarts a crashed server: immediately the first time, then with growing delays until it stays up."""

    def __init__(self, data: DataDir, clock: Callable[[], float] = time.monotonic) -> None:
        self._data = data
        self._clock = clock
        self._failures = 0
        self._not_before = float("-inf")

    def check(self) -> None:
        now = self._clock()
        if is_held(self._data.server_lock):
            if now > self._not_before + _STABLE_AFTER:
                self._failures = 0
        elif now >= self._not_before and self._data.version_file.exists():
            self._start_if_unclaimed(now)

    def _start_if_unclaimed(self, now: float) -> None:
        with FileLock(self._data.start_lock) as start_lock, FileLock(self._data.server_lock) as server_lock:
            if start_lock.try_exclusive() and server_lock.try_exclusive():
                logger.warning("PostgreSQL is in use but not running. Restarting it.")
                self._not_before = now + restart_delay(self._failures)
                self._failures += 1
                server.start(find_installation(self._data), server_lock, may_change_port=False)


def run_keeper(data: DataDir, release_keeper_lock: Callable[[], None]) -> None:
    restarter = ServerRestarter(data)
    with FileLock(data.users_lock) as users:
        while not users.try_exclusive():
            _log_errors(restarter.check)
            time.sleep(POLL)
        _log_errors(lambda: _stop(data))
        release_keeper_lock()  # before users.lock: a process that shares it next must find keeper.lock free


def _stop(data: DataDir) -> None:
    if is_held(data.server_lock) and not server.stop(find_installation(data)):
        logger.error("PostgreSQL does not stop. End its processes by hand.")


def _log_errors(step: Callable[[], None]) -> None:
    """Keeps the keeper alive, because a server without one is neither restarted nor stopped."""
    try:
        step()
    except DuroError as error:
        logger.error("%s", error)  # noqa: TRY400 -- the message is complete, a traceback adds nothing
    except Exception:
        logger.exception("The keeper had an unexpected error and continues.")


def main() -> None:
    logging.basicConfig(format="%(asctime)s [keeper] %(message)s")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # The keeper ends only when no process is attached. SIG_IGN would be inherited by the server.
        signal.signal(number, lambda _number, _frame: None)
    run_keeper(DataDir(Path(sys.argv[1])), partial(os.close, int(sys.argv[2])))


if __name__ == "__main__":
    main()
