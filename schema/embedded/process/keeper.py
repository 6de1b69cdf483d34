"""`python -m schema.embedded.process.keeper DATA_DIR FD`: restarts the server while it is used, stops it when it is not.

FD is keeper.lock, inherited and held. See attach.py for the protocol.
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
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.files.site import locate
from schema.embedded.process import server
from schema.errors import DuroError

logger = logging.getLogger("schema.embedded.process.keeper")

POLL: Final = 0.2  # seconds
_STABLE_AFTER: Final = 60.0
_LONGEST_DELAY: Final = 30.0


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next start, after `failures` starts that did not last."""
    return float(min(_LONGEST_DELAY, 0.5 * 2 ** min(failures, 10)))


class Healing:
    """Starts a server that died: the first time at once, then ever more slowly until one start lasts."""

    def __init__(self, data: DataDir, clock: Callable[[], float] = time.monotonic) -> None:
        self._data = data
        self._clock = clock
        self._failures = 0
        self._not_before = float("-inf")

    def attend(self) -> None:
        now = self._clock()
        if is_held(self._data.server_lock):
            if now > self._not_before + _STABLE_AFTER:
                self._failures = 0
        elif now >= self._not_before and self._data.version_file.exists():
            self._start_unless_somebody_does(now)

    def _start_unless_somebody_does(self, now: float) -> None:
        with FileLock(self._data.start_lock) as start_lock, FileLock(self._data.server_lock) as server_lock:
            if start_lock.try_exclusive() and server_lock.try_exclusive():
                logger.warning("PostgreSQL is not running although it is in use; starting it.")
                self._not_before = now + restart_delay(self._failures)
                self._failures += 1
                server.start(locate(self._data), server_lock, may_move=False)


def keep(data: DataDir, let_go_of_keeper_lock: Callable[[], None]) -> None:
    healing = Healing(data)
    with FileLock(data.users_lock) as users:
        while not users.try_exclusive():
            _log_errors(healing.attend)
            time.sleep(POLL)
        _log_errors(lambda: _stop(data))
        let_go_of_keeper_lock()  # before users.lock: a newcomer that shares it must find keeper.lock free


def _stop(data: DataDir) -> None:
    if is_held(data.server_lock) and not server.stop(locate(data)):
        logger.error("PostgreSQL does not stop; end its processes by hand.")


def _log_errors(step: Callable[[], None]) -> None:
    """A keeper that fell over would leave the server to itself."""
    try:
        step()
    except DuroError as error:
        logger.error("%s", error)  # noqa: TRY400 -- a sentence for the operator, its traceback says no more
    except Exception:
        logger.exception("The keeper failed and goes on.")


def main() -> None:
    logging.basicConfig(format="%(asctime)s [keeper] %(message)s")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # Its users decide when it ends. Not SIG_IGN, which the server would inherit.
        signal.signal(number, lambda _number, _frame: None)
    keep(DataDir(Path(sys.argv[1])), partial(os.close, int(sys.argv[2])))


if __name__ == "__main__":
    main()
