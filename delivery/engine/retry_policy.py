"""When a failed delivery is retried: a pure function of the attempts made, the clock and a random number."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

DEFAULT_DELAYS: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=24),
)
LONGEST_RETRY_AFTER: Final = timedelta(hours=24)

_LONGEST_HTTP_DATE: Final = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`delays[n - 1]` follows attempt n. Jitter changes each delay by up to that fraction, either way."""

    delays: tuple[timedelta, ...] = DEFAULT_DELAYS
    jitter: float = 0.10

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be a fraction of the delay, from 0 to less than 1")

    def next_attempt_at(
        self, attempts_made: int, now: datetime, random: float, retry_after: timedelta | None = None
    ) -> datetime | None:
        """Returns None after the last retry. `random` is in [0, 1).

        A receiver's `retry_after` can delay the attempt, by at most LONGEST_RETRY_AFTER. It never makes the attempt
        earlier, and never adds one.
        """
        if attempts_made < 1:
            raise ValueError("the first attempt is immediate and needs no schedule")
        if attempts_made > len(self.delays):
            return None
        delay = self.delays[attempts_made - 1] * (1 + self.jitter * (2 * random - 1))
        if retry_after is not None:
            delay = max(delay, min(retry_after, LONGEST_RETRY_AFTER))
        return now + delay


def parse_retry_after(text: str, now: datetime) -> timedelta | None:
    """Parses a Retry-After header, seconds or an HTTP date, and limits it to LONGEST_RETRY_AFTER.

    Returns None for other text and for the past. The receiver writes the text, so no text may raise.
    """
    text = text.strip()
    wait = _seconds(text) if text.isascii() and text.isdigit() else _until_http_date(text, now)
    if wait is None or wait < timedelta(0):
        return None
    return min(wait, LONGEST_RETRY_AFTER)


def _seconds(digits: str) -> timedelta:
    return timedelta(seconds=int(digits.lstrip("0")[:10] or 0))  # ten digits exceed any limit already


def _until_http_date(text: str, now: datetime) -> timedelta | None:
    if len(text) > _LONGEST_HTTP_DATE:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
