"""Rate limit of an endpoint: a pure function of the deliveries sent, the rate and the clock (generic cell rate algorithm).

The only state is `next_at`: when the rate allows the next delivery. A claim may run ahead of it by BURST, because claims
poll, and each must bring what becomes due before the next poll. So any time span T has at most rate x (T + BURST) + 1
deliveries, for any number of workers and after any idle time.

The trap is a clock that is set back: `next_at` is then in the future, perhaps by hours. A claim never moves it further
ahead than the burst and one delivery. A larger value was written before the clock changed, and is ignored.

Each claim for a limited endpoint updates its row. While a long transaction holds back the xmin horizon, old row versions
cannot be pruned: 30,000 of them, half an hour of 20 claims a second, slow a claim's update from 0.6 ms to 2-3 ms.
"""

from datetime import datetime, timedelta
from typing import Final

BURST: Final = timedelta(milliseconds=250)
_SECOND: Final = timedelta(seconds=1)
_STEP: Final = timedelta(microseconds=1)  # the resolution of the clock


def grant(next_at: datetime | None, now: datetime, rate: int, wanted: int) -> int:
    """Returns how many of `wanted` deliveries may be sent now, at `rate` per second. `next_at`: None before the first."""
    ahead = now + BURST - _start(next_at, now, rate)
    if ahead < timedelta(0):
        return 0
    return min(wanted, ahead * rate // _SECOND + 1)


def advance(next_at: datetime | None, now: datetime, rate: int, sent: int) -> datetime:
    """Returns the new `next_at` after `sent` of the granted deliveries."""
    return _start(next_at, now, rate) + _duration(sent, rate)


def _start(next_at: datetime | None, now: datetime, rate: int) -> datetime:
    """When the next delivery is due."""
    if next_at is None or next_at > now + BURST + _duration(1, rate):
        return now
    return max(next_at, now)


def _duration(count: int, rate: int) -> timedelta:
    """The time that `count` deliveries take. Rounded up: otherwise each claim could exceed the rate a little."""
    return -(-count * _SECOND // (rate * _STEP)) * _STEP
