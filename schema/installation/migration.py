"""One migration file. Its first line may say how it runs; CONTRIBUTING.md lists what each kind may contain.

(nothing)             the file and its entry in schema_migrations in one transaction
-- runs: index        one CREATE INDEX on a table that is written to at the same time
-- runs: in batches   one statement, repeated in separate transactions until it changes no row
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
    """The text after the table's name: columns, INCLUDE, WHERE."""

    def name_on(self, table: str) -> str:
        """Returns the index's name on a partition, at most 63 bytes."""
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
        """Returns the text with its schema's name: the SET of a function takes no parameters."""
        return self.text.replace(" :schema, ", f" {self.schema}, ")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def kind(self) -> Kind:
        """Returns how the file runs. Raises ValueError for an unknown kind."""
        found = _RUNS.match(self.text)
        return Kind(found["kind"]) if found else Kind.TRANSACTION

    @property
    def index(self) -> Index:
        """Returns the index that the file builds. Raises ValueError when the file contains anything else."""
        text = re.sub(r"--[^\n]*", "", self.text).strip()
        found = _INDEX.fullmatch(text)
        if found is None or ";" in found["rest"]:
            raise ValueError(f"{self.name} must be one statement: CREATE [UNIQUE] INDEX name ON table …;")
        return Index(found["name"], found["table"], bool(found["unique"]), found["rest"])
