"""Durations as people write them in settings: `500ms`, `15s`, `1h30m`, `5d`."""

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
    """Units from large to small, each at most once. Raises InvalidInput; the bounds are inclusive."""
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
        raise InvalidInput(f"{text!r} is longer than any duration can be; write a shorter one.") from None
    if minimum is not None and value < minimum:
        raise InvalidInput(f"{text!r} is too short; the least is {format_duration(minimum)}.")
    if maximum is not None and value > maximum:
        raise InvalidInput(f"{text!r} is too long; the most is {format_duration(maximum)}.")
    return value


def format_duration(value: timedelta) -> str:
    """What `parse_duration` reads back as `value`. ValueError if that is negative or finer than a millisecond."""
    rest = value
    parts = []
    for name, unit in _UNITS.items():
        count, rest = divmod(rest, unit)
        if count < 0:
            raise ValueError("a negative duration has no text")
        if count:
            parts.append(f"{count}{name}")
    if rest:
        raise ValueError("a duration finer than a millisecond has no text")
    return "".join(parts) or "0s"


def parse_schedule(
    text: str, *, minimum: timedelta | None = None, maximum: timedelta | None = None
) -> tuple[timedelta, ...]:
    """Durations with commas between them, `1m,5m,2h`; the bounds hold for each. Raises InvalidInput."""
    if not text.strip():
        raise InvalidInput(
            "The schedule is empty; write durations with commas between them, such as 1m,5m,2h."
        )
    return tuple(parse_duration(part.strip(), minimum=minimum, maximum=maximum) for part in text.split(","))
