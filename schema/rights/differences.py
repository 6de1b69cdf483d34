"""Compares the declared rights with the catalog and returns the statements that repair it. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schema.rights.declared import NO_ACCESS, TRIGGERS, DeclaredSchema

PUBLIC: Final = "PUBLIC"
_OWNERS: Final = {
    "SCHEMA": "USAGE, CREATE",
    "TABLE": "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER",
    "FUNCTION": "EXECUTE",
    "TYPE": "",
}


@dataclass(frozen=True)
class FoundObject:
    """An object in the catalog: see `objects` in queries/rights.sql."""

    kind: str
    name: str
    """The name for use in statements."""
    declared: str | None
    """Its name in `DeclaredSchema`; None for a partition."""
    owner: str
    privileges: frozenset[tuple[str, str]]
    """(grantee, privilege)."""
    triggers: Mapping[str, str]
    shared: bool = False
    """A schema that also has objects of others: its owner and its grants to others are not changed."""


class Kind(StrEnum):
    OWNER = "owner"
    REVOKE = "revoke"
    GRANT = "grant"
    TRIGGER = "trigger"


@dataclass(frozen=True)
class Repair:
    kind: Kind
    schema: str
    object: str
    role: str
    """The current owner, or the grantee; for a trigger, its name."""
    statement: str


def differences(declared: DeclaredSchema, found: Iterable[FoundObject], owner: str) -> list[Repair]:
    """Returns repairs in the order in which they must run: owners, revokes, grants, triggers."""
    repairs = [repair for each in found for repair in _of_object(declared, each, owner)]
    return sorted(repairs, key=lambda repair: list(Kind).index(repair.kind))


def _of_object(declared: DeclaredSchema, found: FoundObject, owner: str) -> Iterator[Repair]:
    if found.owner != owner and not found.shared:
        noun = "FUNCTION" if found.kind == "FUNCTION" else found.kind
        statement = f"ALTER {noun} {found.name} OWNER TO {quoted(owner)}"
        yield Repair(Kind.OWNER, declared.schema, found.name, found.owner, statement)
    if found.kind == "TYPE":
        return
    wanted = {found.owner: _OWNERS[found.kind], **_grants(declared, found)}
    granted = {
        grantee: {privilege for whose, privilege in found.privileges if whose == grantee}
        for grantee in {*wanted, *(grantee for grantee, _ in found.privileges)}
    }
    for grantee, has in sorted(granted.items()):
        needs = set(filter(None, wanted.get(grantee, "").split(", ")))
        if (extra := has - needs) and grantee != found.owner and not (found.shared and grantee == PUBLIC):
            yield Repair(
                Kind.REVOKE,
                declared.schema,
                found.name,
                grantee,
                f"REVOKE {_list(extra)} ON {found.kind} {found.name} FROM {_grantee(grantee)} CASCADE",
            )
        if missing_privileges := needs - has:
            now = owner if grantee == found.owner else grantee
            yield Repair(
                Kind.GRANT,
                declared.schema,
                found.name,
                now,
                f"GRANT {_list(missing_privileges)} ON {found.kind} {found.name} TO {_grantee(now)}",
            )
    for name, enabled in found.triggers.items():
        if name in TRIGGERS and enabled != TRIGGERS[name]:
            how = "ENABLE ALWAYS" if TRIGGERS[name] == "A" else "ENABLE"
            statement = f"ALTER TABLE {found.name} {how} TRIGGER {quoted(name)}"
            yield Repair(Kind.TRIGGER, declared.schema, found.name, name, statement)


def _grants(declared: DeclaredSchema, found: FoundObject) -> Mapping[str, str]:
    if found.kind == "SCHEMA":
        return dict.fromkeys(declared.usage, "USAGE")
    if found.declared is None:
        return NO_ACCESS
    return (declared.functions if found.kind == "FUNCTION" else declared.tables)[found.declared]


def missing(declared: DeclaredSchema, found: Iterable[FoundObject]) -> list[str]:
    """Returns the declared objects that the catalog does not have."""
    existing = {(each.kind, each.declared) for each in found}
    wanted = [
        *(("TABLE", name) for name in declared.tables),
        *(("FUNCTION", name) for name in declared.functions),
        *(("TYPE", name) for name in declared.types),
    ]
    return [f"{declared.schema}.{name}" for kind, name in wanted if (kind, name) not in existing]


def summary(repairs: Iterable[Repair], owner: str = "") -> list[str]:
    """Returns one readable line per kind of repair."""
    counted: dict[tuple[Kind, str, str], set[str]] = {}
    for repair in repairs:
        counted.setdefault((repair.kind, repair.schema, repair.role), set()).add(repair.object)
    return [
        _line(kind, schema, role, len(objects), owner) for (kind, schema, role), objects in counted.items()
    ]


def _line(kind: Kind, schema: str, role: str, count: int, owner: str) -> str:
    objects = f"{count} object{'s' if count > 1 else ''} of schema {schema}"
    match kind:
        case Kind.OWNER:
            return f"made {owner} the owner of {objects} that belonged to {role}"
        case Kind.REVOKE:
            return f"revoked rights of {role} on {objects}"
        case Kind.GRANT:
            return f"granted {role} the rights it lacked on {objects}"
        case Kind.TRIGGER:
            return f"enabled the trigger {role} on {objects}"


def quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _grantee(role: str) -> str:
    return PUBLIC if role == PUBLIC else quoted(role)


def _list(privileges: Iterable[str]) -> str:
    return ", ".join(sorted({re.sub(r"\*$", "", privilege) for privilege in privileges}))
