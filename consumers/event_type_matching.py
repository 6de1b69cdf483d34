"""Decides which endpoints an event goes to. An endpoint names event types exactly or by a prefix (`subscription_*`); without
patterns it gets all. Only a test event goes to a single endpoint: the one that its data names.
"""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Final, Protocol, TypeVar
from uuid import UUID

import orjson

from schema.errors import InvalidInput
from schema.ids import ENDPOINT, parse_id

WILDCARD: Final = "*"
TEST: Final = "webhook_test"


class Target(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def event_types(self) -> Sequence[str]: ...


T = TypeVar("T", bound=Target)


def targets_of(event_type: str, data: str, targets: Sequence[T]) -> list[T]:
    """Selects the tenant's endpoints that an event goes to. `data`, JSON text, is read only for a test event."""
    if event_type == TEST:
        addressee = _addressee(data)
        return [target for target in targets if target.id == addressee]
    return [target for target in targets if matches(target.event_types, event_type)]


def _addressee(data: str) -> UUID | None:
    """None when the data names no endpoint: such a test event is not delivered."""
    try:
        match orjson.loads(data):
            case {"endpointId": str(named)}:
                return parse_id(ENDPOINT, named)
    except (orjson.JSONDecodeError, InvalidInput):
        pass
    return None


def matches(patterns: Sequence[str], event_type: str) -> bool:
    """No patterns match every type, and so does `*`. A `*` is only at the end; `validate_patterns` checks that."""
    return not patterns or any(_matches_one(pattern, event_type) for pattern in patterns)


def validate_patterns(patterns: Iterable[str], catalog: Collection[str]) -> tuple[str, ...]:
    """Removes duplicate patterns and keeps their order. Raises InvalidInput for one that matches no type in `catalog`."""
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
