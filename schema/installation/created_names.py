"""Finds the names that migrations use in their schema, from their text. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)
_CREATE: Final = re.compile(
    r"\bCREATE (?:OR REPLACE )?(?:UNIQUE )?(TABLE|VIEW|INDEX|FUNCTION|AGGREGATE|DOMAIN|TYPE)"
    r"(?: CONCURRENTLY)?(?: IF NOT EXISTS)? (?:core\.)?(\w+)"
)
_CONSTRAINT: Final = re.compile(r"\bCONSTRAINT (\w+) (?:PRIMARY|UNIQUE|EXCLUDE)")


@dataclass(frozen=True)
class CreatedNames:
    """Tables, views and indexes share one namespace, and each table and view also has a type of its name."""

    tables: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()
    """Tables, views, and indexes with an explicit name."""
    functions: frozenset[str] = frozenset()
    """By name only: a call could resolve to another function of the same name."""
    types: frozenset[str] = frozenset()
    _derived: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Names that PostgreSQL derives for constraints and sequences, and duro for partitions and
        # generations.
        suffix = r"(_pkey|_\w+_(key|excl|seq)|(_g\d+)?(_\d{4}_\d{2})?)"
        tables = "|".join(sorted(map(re.escape, self.tables))) or r"(?!)"
        object.__setattr__(self, "_derived", re.compile(f"({tables}){suffix}"))

    def has_relation_or_type(self, name: str) -> bool:
        """They share a namespace, because a table has a type of its name."""
        return name in self.relations or name in self.types or self._derived.fullmatch(name) is not None

    def without(self, others: "CreatedNames") -> "CreatedNames":
        return CreatedNames(
            self.tables - others.tables,
            self.relations - others.relations,
            self.functions - others.functions,
            self.types - others.types,
        )


def created_names(texts: Iterable[str]) -> CreatedNames:
    names: dict[str, set[str]] = {}
    for text in texts:
        statements = _COMMENT.sub("", text)
        for kind, name in _CREATE.findall(statements):
            names.setdefault(kind, set()).add(name)
        names.setdefault("INDEX", set()).update(_CONSTRAINT.findall(statements))
    tables = names.get("TABLE", set())
    types = names.get("TYPE", set()) | names.get("DOMAIN", set())
    types |= {
        re.sub("range$", "multirange", name) for name in types
    }  # PostgreSQL creates it, and functions of its name
    return CreatedNames(
        frozenset(tables),
        frozenset(tables | names.get("VIEW", set()) | names.get("INDEX", set())),
        frozenset(names.get("FUNCTION", set()) | names.get("AGGREGATE", set()) | types),
        frozenset(types),
    )
