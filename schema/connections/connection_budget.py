"""How many connections one process opens at most, and how they are shared out among its pools.

      presence ── 1, outside the pools        core ── 1 or 2
      each mode:  data ── what records, fans out, claims and settles: these never wait for
                  background ── projections, counting, watching, housekeeping, metrics

A part holds one connection at a time and asks for none while it holds one, so one per pool is enough to get on: it makes
parts wait for each other, and nothing worse.
"""

from dataclasses import dataclass
from typing import Final

LEAST: Final = 6  # one for presence, one for core, and two for each of two modes
MOST: Final = 100
DEFAULT: Final = 15
"""Four that deliver and two in the background for each mode, two for core: more made deliveries no faster."""
_TWO_FOR_CORE: Final = 15
_BACKGROUND_SHARE: Final = 3  # a third


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    core: int
    data: int
    """For each mode."""
    background: int
    """For each mode; 0: what works in the background uses the connections of `data`."""

    @classmethod
    def of_worker(cls, total: int) -> "ConnectionBudget":
        """`total` is at least LEAST."""
        core = 2 if total >= _TWO_FOR_CORE else 1
        per_mode = (total - 1 - core) // 2
        background = max(1, per_mode // _BACKGROUND_SHARE)
        return cls(core, per_mode - background, background)
