"""flock(2) locks. An open file holds the lock, not a process, and the kernel releases it with the last descriptor.

So a child that inherits the descriptor holds the lock too, even after the parent has ended.
"""

import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """An open lock file, initially unlocked. `close` releases the lock unless a child has inherited it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_shared(self) -> bool:
        return _try_flock(self._fd, fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        return _try_flock(self._fd, fcntl.LOCK_EX)

    def fileno(self) -> int:
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        if not self.closed:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Returns whether the lock is held exclusively.

    The check shares the lock for an instant, so code that takes a lock exclusively must try more than once.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try_flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
