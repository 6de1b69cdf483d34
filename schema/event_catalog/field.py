"""A field of `data`: its JSON Schema and its example value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

A_ULID: Final = "01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
ANOTHER_ULID: Final = "01HKC0M2E4Y7N5R8S3W6A1D9FG"
_ULID: Final = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_MOMENT: Final = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"  # the format of iso_millis
)


@dataclass(frozen=True, slots=True)
class Field:
    description: str
    holds: Mapping[str, Any]
    """Type, pattern, enum and so on."""
    example: Any

    def schema(self) -> dict[str, Any]:
        return {"description": self.description, **self.holds}


Fields: TypeAlias = dict[str, Field]


def id_of(prefix: str, description: str, ulid: str = A_ULID) -> Field:
    return Field(description, {"type": "string", "pattern": f"^{prefix}_{_ULID}$"}, f"{prefix}_{ulid}")


def money(description: str, example: int) -> Field:
    whole = f"{description} In minor units of the currency (kobo for NGN)."
    return Field(whole, {"type": "integer", "minimum": 0}, example)


def count(description: str, example: int, *, least: int = 0) -> Field:
    return Field(description, {"type": "integer", "minimum": least}, example)


def moment(description: str, example: str) -> Field:
    return Field(description, {"type": "string", "format": "date-time", "pattern": f"^{_MOMENT}$"}, example)


def text(description: str, example: str, *, longest: int | None = None) -> Field:
    bounds = {"minLength": 1} if longest is None else {"minLength": 1, "maxLength": longest}
    return Field(description, {"type": "string", **bounds}, example)


def flag(description: str, *, example: bool) -> Field:
    return Field(description, {"type": "boolean"}, example)


def one_of(values: Sequence[str] | Sequence[int], description: str, example: str | int) -> Field:
    """A closed set of values."""
    kind = "string" if isinstance(example, str) else "integer"
    return Field(description, {"type": kind, "enum": list(values)}, example)


def always(value: str, description: str) -> Field:
    return Field(description, {"type": "string", "const": value}, value)


def renewal_key(description: str, period_start: str) -> Field:
    """`renewal_sub_…_2026-06-28T09:00:00.000Z`."""
    pattern = f"^renewal_sub_{_ULID}_{_MOMENT}$"
    return Field(description, {"type": "string", "pattern": pattern}, f"renewal_sub_{A_ULID}_{period_start}")


def or_null(field: Field) -> Field:
    holds = {**field.holds, "type": [field.holds["type"], "null"]}
    if "enum" in holds:
        holds["enum"] = [*holds["enum"], None]
    return replace(field, holds=holds)
