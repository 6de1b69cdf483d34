"""Reads CPU time and memory of processes from /proc."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")

# Fields of /proc/PID/stat after the name, numbered from 3 as in proc(5). The name may contain any character.
_PARENT, _USER, _SYSTEM, _ENDED_USER, _ENDED_SYSTEM = 4 - 3, 14 - 3, 15 - 3, 16 - 3, 17 - 3


def cpu_s(pid: int) -> float:
    """Returns the CPU time of the process with all its threads, or 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS if fields else 0.0


def tree_cpu_s(root: int) -> float:
    """Returns the CPU time of `root` and its children, including ended ones: a whole PostgreSQL server."""
    ended = 0.0
    if fields := _stat(root):
        ended = (int(fields[_ENDED_USER]) + int(fields[_ENDED_SYSTEM])) / _TICKS
    return cpu_s(root) + ended + sum(cpu_s(pid) for pid in _children(root))


def busy_s() -> float:
    """Returns the CPU time that the whole machine has spent on processes, including time stolen by its host."""
    user, nice, system, _idle, _io_wait, _irq, _soft_irq, stolen = (
        int(ticks) for ticks in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + stolen) / _TICKS


def own_cpu_s() -> float:
    """Returns the CPU time of this process and of all its ended children."""
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
