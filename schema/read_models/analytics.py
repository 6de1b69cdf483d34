"""The views that a mode publishes to its analysts, read from the database's catalog: names, types and comments."""

from collections.abc import Sequence
from dataclasses import dataclass

from schema.connections.database import Executor
from schema.installation.roles import analyst_of
from schema.modes import Mode
from schema.queries import load

_SQL = load("analytics")


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    """The type's name in PostgreSQL."""
    meaning: str


@dataclass(frozen=True, slots=True)
class View:
    name: str
    meaning: str
    columns: Sequence[Column]

    @property
    def time(self) -> Column | None:
        """The time column: `hour` or `day`."""
        return next((column for column in self.columns if column.name in ("hour", "day")), None)


async def views(connection: Executor, mode: Mode) -> list[View]:
    return [
        View(row["name"], row["meaning"], await columns(connection, row["name"]))
        for row in await connection.fetch(_SQL["views"], analyst_of(mode))
    ]


async def columns(connection: Executor, view: str) -> list[Column]:
    return [Column(*row) for row in await connection.fetch(_SQL["columns"], view)]
