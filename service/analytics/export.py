"""Exports a view to a file through a cursor in one read-only snapshot. All rows are of one time, and memory is bounded."""

import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any, Final, cast

import asyncpg

from schema.connections.connecting import Login
from schema.connections.database import CONNECT_TIMEOUT_S, Database, connect_with
from schema.connections.session_settings import PINNED
from schema.errors import Conflict, Unavailable
from schema.modes import Mode
from schema.read_models.analytics import View
from schema.secret_box import derive_role_password
from service.analytics.file_writers import Rows

STDOUT: Final = "-"
_ROWS: Final = 20_000
_SLOWEST_STATEMENT: Final = "10min"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    view: View
    since: Any
    """Of the type of the view's time column, or None, like `until`. The range includes `since` and excludes `until`."""
    until: Any

    def sql(self) -> str:
        """The query, ordered by time. Names come from the catalog; values are parameters."""
        names = [column.name for column in self.view.columns]
        chosen = ", ".join(f'"{name}"' for name in names)
        if self.view.time is None:
            return f'SELECT {chosen} FROM "{self.view.name}" WHERE $1::text IS NULL AND $2::text IS NULL'  # noqa: S608
        when, type_ = f'"{self.view.time.name}"', self.view.time.type
        return (
            f'SELECT {chosen} FROM "{self.view.name}"'  # noqa: S608
            f" WHERE ($1::{type_} IS NULL OR {when} >= $1) AND ($2::{type_} IS NULL OR {when} < $2)"
            f" ORDER BY {when}, tenant_id"
        )


@asynccontextmanager
async def reading(database: Database, mode: Mode) -> AsyncIterator[asyncpg.Connection]:
    """Connects as the mode's data role, with an analyst's planner settings: those of the pools are meant for lookups."""
    settings = {
        **PINNED,
        "search_path": mode.schema,
        "statement_timeout": _SLOWEST_STATEMENT,
        "default_transaction_read_only": "on",
    }
    login = Login(mode.role, derive_role_password(database.key, mode.role))
    connection = await connect_with(database.target, login, "duro analytics", settings)
    try:
        yield connection
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    finally:
        connection.terminate()


async def rows(connection: asyncpg.Connection, request: ExportRequest) -> AsyncIterator[Rows]:
    """Yields batches of up to _ROWS rows."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await connection.cursor(request.sql(), request.since, request.until)
        while batch := await cursor.fetch(_ROWS):
            yield cast(Rows, batch)


class Sink(RawIOBase):
    """A file whose write errors become sentences. The driver raises the same error types for the database."""

    def __init__(self, file: FileIO, name: str) -> None:
        self._file = file
        self._name = name
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        with self._sentences():
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = "standard output" if self._name == STDOUT else self._name
            raise Unavailable(
                f"Writing to {what} failed ({error.strerror}): the export is not complete. Run it again."
            ) from None


@contextmanager
def target(path: str, *, overwrite: bool) -> Iterator[Sink]:
    """Opens the target; `-` is standard output. A file gets its name only when it is complete.

    Raises Conflict when the file exists, and Unavailable when it cannot be written.
    """
    if path == STDOUT:
        with FileIO(os.dup(sys.stdout.fileno()), "wb") as pipe:
            yield Sink(pipe, path)
        return
    final = Path(path)
    part = final.with_name(f".{secrets.token_hex(8)}.part")
    with _writable(path):
        if final.exists() and not (overwrite and final.is_file()):
            raise Conflict(
                f"{path} already exists: choose another file, or add --overwrite to replace a file."
            )
        file = part.open("xb", buffering=0)
    try:
        with file:
            yield Sink(file, path)
            with _writable(path):
                os.fsync(file.fileno())
        with _writable(path):
            if overwrite:
                part.replace(final)
            else:
                final.hardlink_to(part)  # fails if another process has created the file since
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _writable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{path} cannot be written ({error.strerror}): choose another file.") from None
