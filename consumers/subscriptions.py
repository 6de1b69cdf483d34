"""Which event types an endpoint asked for: exact names, `subscription_*` for all that begin so, none for all."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from schema.errors import InvalidInput

WILDCARD: Final = "*"


def matches(patterns: Sequence[str], event_type: str) -> bool:
    """No patterns match everything, `*` too. A `*` stands only at the end, as `validate_patterns` makes sure."""
    return not patterns or any(_matches_one(pattern, event_type) for pattern in patterns)


def validate_patterns(patterns: Iterable[str], catalog: Collection[str]) -> tuple[str, ...]:
    """The patterns once each, in their order. Raises InvalidInput for one that no type in `catalog` matches."""
    distinct = tuple(dict.fromkeys(patterns))
    for pattern in distinct:
        if not any(_matches_one(pattern, event_type) for event_type in catalog):
            raise InvalidInput(_explain_unknown(pattern, catalog))
    return distinct


def _matches_one(pattern: str, event_type: str) -> bool:
    if pattern.endswith(WILDCARD):
        return event_type.startswith(pattern.removesuffix(WILDCARD))
    return pattern == event_type


def _explain_unknown(pattern: str, catalog: Collection[str]) -> str:
    known = _wildcards(catalog) if WILDCARD in pattern else sorted(catalog)
    close = get_close_matches(pattern, known)
    advice = f"did you mean {' or '.join(close)}?" if close else f"the known ones are {', '.join(known)}."
    what = "matches no event type" if WILDCARD in pattern else "is not an event type"
    return f"{pattern!r} {what}; {advice}"


def _wildcards(catalog: Iterable[str]) -> list[str]:
    """`subscription_*` and `subscription_payment_*` for `subscription_payment_failed`."""
    prefixes: set[str] = set()
    for event_type in catalog:
        words = event_type.split("_")
        prefixes.update("_".join([*words[:count], WILDCARD]) for count in range(1, len(words)))
    return sorted(prefixes)
