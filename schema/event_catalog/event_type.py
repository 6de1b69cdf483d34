"""One entry of the catalog, built from a table of fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from schema.event_catalog.field import Fields

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class EventType:
    name: str
    description: str
    schema: Mapping[str, Any]
    """The JSON Schema of `data`, as a dict ready for JSON, like the example. Do not modify either."""
    example: Mapping[str, Any]


def event_type(
    name: str, description: str, fields: Fields, *, together: Collection[str] = (), **examples: Any
) -> EventType:
    """`together`: fields that are all present or all absent. `examples`: values that suit this type better than those of
    its fields.
    """
    schema: dict[str, Any] = {
        "$schema": _DRAFT,
        "title": name,
        "description": description,
        "type": "object",
        "properties": {key: field.schema() for key, field in fields.items()},
        "required": [key for key in fields if key not in together],
        "additionalProperties": False,
    }
    if together:
        schema["dependentRequired"] = {key: [other for other in together if other != key] for key in together}
    example = {key: field.example for key, field in fields.items()} | examples
    return EventType(name, description, schema, example)
