"""Durations as written in settings: `500ms`, `15s`, `1h30m`, `5d`."""

import re
from datetime import timedelta

from schema.errors import InvalidInput

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _UNITS))


def parse_duration(
    text: str, *, minimum: timedelta | None = None, maximum: timedelta | None = None
) -> timedelta:
    """Reads units from large to small, each at most once. The bounds are inclusive. Raises InvalidInput."""
    match = _DURATION.fullmatch(text)
    if not match or match.lastindex is None:
        raise InvalidInput(
            f"{text!r} is not a duration; write whole numbers with units, such as 500ms, 15s, 1h30m or 5d."
        )
    try:
        value = sum(
            (int(count) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True) if count),
            timedelta(),
        )
    except OverflowError:
        raise InvalidInput(f"{text!r} is too long to represent; write a shorter duration.") from None
    if minimum is not None and value < minimum:
        raise InvalidInput(f"{text!r} is too short; the minimum is {format_duration(minimum)}.")
    if maximum is not None and value > maximum:
        raise InvalidInput(f"{text!r} is too long; the maximum is {format_duration(maximum)}.")
    return value


def format_duration(value: timedelta) -> str:
    """Writes a duration that `parse_duration` reads back. Raises ValueError if it is negative or below a millisecond."""
    rest = value
    parts = []
    for name, unit in _UNITS.items():
        count, rest = divmod(rest, unit)
        if count < 0:
            raise ValueError("a negative duration has no text")
        if count:
            parts.append(f"{count}{name}")
    if rest:
        raise ValueError("a duration below a millisecond has no text")
    return "".join(parts) or "0s"


def parse_schedule(
    text: str, *, minimum: timedelta | None = None, maximum: timedelta | None = None
) -> tuple[timedelta, ...]:
    """Reads comma-separated durations, `1m,5m,2h`. The bounds apply to each. Raises InvalidInput."""
    if not text.strip():
        raise InvalidInput("The schedule is empty; write comma-separated durations, such as 1m,5m,2h.")
    return tuple(parse_duration(part.strip(), minimum=minimum, maximum=maximum) for part in text.split(","))
