"""Limits the connections of one process and divides them among its pools.

      presence ── 1, outside the pools        core ── 1 or 2
      each mode:  data ── recording, fan-out, claiming and settling, which never wait for
                  background ── projections, counting, watching, housekeeping, metrics

A part holds at most one connection and requests none while it holds one. So one connection per pool is
enough: parts then wait for each other, but cannot deadlock.
"""

from dataclasses import dataclass
from typing import Final

MIN_CONNECTIONS: Final = 6  # one for presence, one for core, and two for each of two modes
MAX_CONNECTIONS: Final = 100
DEFAULT_CONNECTIONS: Final = 15
"""Per mode four for deliveries and two in the background, plus two for core: more did not deliver faster."""
_TWO_FOR_CORE_FROM: Final = 15
_BACKGROUND_SHARE: Final = 3  # one third of a mode's connections


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    core: int
    data: int
    """Per mode."""
    background: int
    """Per mode; 0: background work uses the connections of `data`."""

    @classmethod
    def of_worker(cls, total: int) -> "ConnectionBudget":
        """Divides `total` connections, which must be at least MIN_CONNECTIONS."""
        core = 2 if total >= _TWO_FOR_CORE_FROM else 1
        per_mode = (total - 1 - core) // 2
        background = max(1, per_mode // _BACKGROUND_SHARE)
        return cls(core, per_mode - background, background)
