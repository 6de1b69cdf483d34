"""Directories for servers' data, in memory if there is enough: a disk takes twice the time.

pytest's tmp_path does not work, because its parents are private and the server runs as another user.
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
    """Creates a directory that the caller must remove."""
    parent = MEMORY if _memory_serves(for_programs) else None
    root = Path(tempfile.mkdtemp(prefix="duro-test-", dir=parent))
    root.chmod(mode)
    return root


@contextmanager
def temporary_directory(mode: int = 0o755, *, for_programs: bool = False) -> Iterator[Path]:
    """Yields a directory, and removes it after its embedded servers have stopped.

    Use `for_programs` to run programs in it.
    """
    root = new_directory(mode, for_programs=for_programs)
    try:
        yield root
    finally:
        for directory, below, files in os.walk(root):
            if "users.lock" in files:
                wait_stopped(Path(directory), STOPPED_WITHIN_S)
                below.clear()
        shutil.rmtree(root)


def _memory_serves(for_programs: bool) -> bool:
    """Returns whether /dev/shm is usable. In a container it often has 64 MB and is mounted noexec."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < PLENTY:
        return False
    return not (for_programs and os.statvfs(MEMORY).f_flag & os.ST_NOEXEC)


def free_port() -> int:
    """Returns a free port on loopback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
