"""Validates events against the catalog."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from schema.event_catalog import catalog


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# JSON Schema accepts 5.0 as an integer. Events must not contain it, because money is never a float.
_Strict = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def assert_conforms(type_: str, data: Mapping[str, Any]) -> None:
    """Fails with all violations. Fast enough for thousands of events."""
    wrong = [f"{error.json_path}: {error.message}" for error in _validator(type_).iter_errors(data)]
    assert not wrong, f"{type_} violates its schema: {'; '.join(wrong)}"


@cache
def _validator(type_: str) -> Validator:
    assert type_ in catalog(), f"{type_!r} is not in the catalog"
    return _Strict(catalog()[type_].schema)
