"""What /proc tells of processes: CPU time and memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")

# Fields of /proc/PID/stat after the name, which is in brackets and may hold anything: proc(5), counted from 3.
_PARENT, _USER, _SYSTEM, _ENDED_USER, _ENDED_SYSTEM = 4 - 3, 14 - 3, 15 - 3, 16 - 3, 17 - 3


def cpu_s(pid: int) -> float:
    """Of the process itself, all its threads, since it began; 0 when it is gone."""
    fields = _stat(pid)
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS if fields else 0.0


def tree_cpu_s(root: int) -> float:
    """Of `root` and its children, those that have ended included: of a PostgreSQL server all there is."""
    ended = 0.0
    if fields := _stat(root):
        ended = (int(fields[_ENDED_USER]) + int(fields[_ENDED_SYSTEM])) / _TICKS
    return cpu_s(root) + ended + sum(cpu_s(pid) for pid in _children(root))


def busy_s() -> float:
    """CPU time that the whole machine has spent on processes, and that its host took away from it."""
    user, nice, system, _idle, _io_wait, _irq, _soft_irq, stolen = (
        int(ticks) for ticks in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + stolen) / _TICKS


def own_cpu_s() -> float:
    """Of this process and of all its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def resident_bytes(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _children(parent: int) -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and int(fields[_PARENT]) == parent:
            yield int(entry.name)


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
