"""Directories for servers' data, in memory where there is plenty: a disk takes twice the time and the work for it.

Not pytest's tmp_path, whose parents are closed to the server's user and closed again by each session.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schema.embedded import wait_stopped

MEMORY = "/dev/shm"
PLENTY = 4 << 30
STOPPED_WITHIN_S = 30.0


def new_directory(mode: int = 0o755, *, for_programs: bool = False) -> Path:
    """For its maker to remove."""
    parent = MEMORY if _memory_serves(for_programs) else None
    place = Path(tempfile.mkdtemp(prefix="duro-test-", dir=parent))
    place.chmod(mode)
    return place


@contextmanager
def temporary_directory(mode: int = 0o755, *, for_programs: bool = False) -> Iterator[Path]:
    """`for_programs` that are to run from there. Goes when the embedded servers in it have stopped."""
    place = new_directory(mode, for_programs=for_programs)
    try:
        yield place
    finally:
        for directory, below, files in os.walk(place):
            if "users.lock" in files:
                wait_stopped(Path(directory), STOPPED_WITHIN_S)
                below.clear()
        shutil.rmtree(place)


def _memory_serves(for_programs: bool) -> bool:
    """A container often has 64 MB of it, from which no program may run."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < PLENTY:
        return False
    return not (for_programs and os.statvfs(MEMORY).f_flag & os.ST_NOEXEC)


def free_port() -> int:
    """On the loopback; nothing listens there yet."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
