"""How many connections a worker may keep open, by the system's limit of file descriptors."""

import resource
from typing import Final

_ENOUGH: Final = 65_536
_OTHERS: Final = 256
"""Descriptors reserved for the database, the HTTP server, DNS and logs."""
_LEAST: Final = 64


def raise_limit() -> int:
    """Raises this process's soft limit as far as allowed and returns it. The usual 1,024 is a relic of select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # some systems report more than they allow
            return soft
        return wanted
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def kept_open(descriptors: int) -> int:
    """Returns how many connections may be kept for reuse: half of the rest, since requests in flight need theirs."""
    return max(_LEAST, (descriptors - _OTHERS) // 2)


def in_flight(descriptors: int, wanted: int) -> int:
    """Returns how many of `wanted` attempts may be in flight in each of two modes: the other half."""
    return max(1, min(wanted, kept_open(descriptors) // 2))
