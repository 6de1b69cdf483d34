"""One migration file. Its first line may say how it runs; see CONTRIBUTING.md for what may be in each kind.

(nothing)             all of it in one transaction, together with its entry in the book
-- runs: index        one CREATE INDEX on a table that others write to meanwhile
-- runs: in batches   one statement, each time in a transaction of its own, until it changes no row
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_RUNS: Final = re.compile(r"\A-- runs: (?P<kind>.+)$", re.MULTILINE)
_INDEX: Final = re.compile(
    r"CREATE (?P<unique>UNIQUE )?INDEX (?P<name>\w+)\s+ON (?P<table>\w+)\s*(?P<rest>.+?);?", re.DOTALL
)


class Kind(StrEnum):
    TRANSACTION = "in a transaction"
    INDEX = "index"
    BATCHES = "in batches"


@dataclass(frozen=True)
class Index:
    name: str
    table: str
    unique: bool
    rest: str
    """What follows the table's name: columns, INCLUDE, WHERE."""

    def on(self, table: str) -> str:
        """The name of its part on a partition, 63 bytes at most."""
        if table == self.table:
            return self.name
        name = f"{table}_{self.name.removeprefix(f'{self.table}_')}"
        return name if len(name) <= 63 else f"{name[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Migration:
    schema: str
    name: str
    text: str

    @property
    def statements(self) -> str:
        """The text for its schema: a function's settings cannot be parameters, so the name is put in."""
        return self.text.replace(" :schema, ", f" {self.schema}, ")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def kind(self) -> Kind:
        """Raises ValueError for a kind that there is not."""
        found = _RUNS.match(self.text)
        return Kind(found["kind"]) if found else Kind.TRANSACTION

    @property
    def index(self) -> Index:
        """Of a file that builds one. Raises ValueError when that is not all there is in it."""
        text = re.sub(r"--[^\n]*", "", self.text).strip()
        found = _INDEX.fullmatch(text)
        if found is None or ";" in found["rest"]:
            raise ValueError(f"{self.name} is to be one statement: CREATE [UNIQUE] INDEX name ON table …;")
        return Index(found["name"], found["table"], bool(found["unique"]), found["rest"])
