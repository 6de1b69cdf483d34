"""postgres.log: the output of the server and the keeper, in two files of bounded size."""

import os
from pathlib import Path
from typing import Final

_ROTATE_AT: Final = 10 * 1024 * 1024  # bytes
_READ_AT_MOST: Final = 64 * 1024


def rotate_log(log: Path) -> None:
    """Call it only before a start, because a running server keeps writing to its open file."""
    if log_size(log) > _ROTATE_AT:
        log.replace(log.with_suffix(".log.1"))


def log_size(log: Path) -> int:
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def read_log(log: Path, start: int) -> str:
    """Returns the log from byte `start`, or its last 64 KiB."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _READ_AT_MOST))
        return file.read(_READ_AT_MOST).decode("utf-8", errors="replace")
