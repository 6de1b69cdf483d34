"""How many connections a worker may hold open: as many descriptors as the system lets it have."""

import resource
from typing import Final

_ENOUGH: Final = 65_536
_OTHERS: Final = 256
"""For the database, the HTTP server, DNS, logs."""
_LEAST: Final = 64


def raise_limit() -> int:
    """Raises this process's soft limit as far as it may, and returns it. The usual 1,024 are a relic of select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # some systems promise more than they give
            return soft
        return wanted
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def kept_open(descriptors: int) -> int:
    """Connections that may be kept for reuse: half of what is left, for requests in flight need theirs too."""
    return max(_LEAST, (descriptors - _OTHERS) // 2)


def in_flight(descriptors: int, wanted: int) -> int:
    """Attempts that may be under way in each of two modes, of those `wanted`: the other half."""
    return max(1, min(wanted, kept_open(descriptors) // 2))
