"""Which endpoints an event goes to: those that asked for its type, by exact name, by `subscription_*` for all that
begin so, or by no pattern for all. A test event alone is addressed: to the one endpoint that its data names.
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
    """Those of a tenant's endpoints that an event goes to. `data`, as JSON text, is read for a test event alone."""
    if event_type == TEST:
        addressee = _addressee(data)
        return [target for target in targets if target.id == addressee]
    return [target for target in targets if matches(target.event_types, event_type)]


def _addressee(data: str) -> UUID | None:
    """None when the data names no endpoint: such a test goes nowhere."""
    try:
        match orjson.loads(data):
            case {"endpointId": str(named)}:
                return parse_id(ENDPOINT, named)
    except (orjson.JSONDecodeError, InvalidInput):
        pass
    return None


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
