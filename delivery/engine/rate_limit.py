"""An endpoint's rate limit: a pure function of what has been sent, the rate and the clock (the generic cell rate
algorithm).

The one thing remembered is `next_at`, when the next delivery is due by the rate. A claim may run ahead of it by BURST,
because claims are polls and each has to bring what falls due until the next one. So in any time T there are at most
rate x (T + BURST) + 1 deliveries, whoever claims them and however long nothing was sent before.

The trap is the clock that is set back: `next_at` then lies in a future that may be hours away. No claim leaves it
further ahead than the burst and one delivery, so what lies further ahead was written by another time, and is nothing.

Each claim for a limited endpoint updates its one row. While some transaction holds the horizon back, those versions
cannot be pruned: 30,000 of them took a round of pacing from 0.6 to 2-3 ms, which is half an hour at 20 claims a second.
"""

from datetime import datetime, timedelta
from typing import Final

BURST: Final = timedelta(milliseconds=250)
_SECOND: Final = timedelta(seconds=1)
_STEP: Final = timedelta(microseconds=1)  # of the clock: no delivery is due between two of them


def grant(next_at: datetime | None, now: datetime, rate: int, wanted: int) -> int:
    """How many of `wanted` deliveries may go out now, at `rate` a second. `next_at` is None when none ever was sent."""
    ahead = now + BURST - _start(next_at, now, rate)
    if ahead < timedelta(0):
        return 0
    return min(wanted, ahead * rate // _SECOND + 1)


def after(next_at: datetime | None, now: datetime, rate: int, sent: int) -> datetime:
    """The new `next_at`, once `sent` of what was granted go out."""
    return _start(next_at, now, rate) + _take(sent, rate)


def _start(next_at: datetime | None, now: datetime, rate: int) -> datetime:
    """When the first of the next deliveries is due."""
    if next_at is None or next_at > now + BURST + _take(1, rate):
        return now
    return max(next_at, now)


def _take(count: int, rate: int) -> timedelta:
    """How long so many deliveries take; rounded up, for a microsecond lost by each claim would add up."""
    return -(-count * _SECOND // (rate * _STEP)) * _STEP
