"""Shared by all commands: settings, the database, and output as text or JSON."""

import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import asyncpg
import click
import orjson
import uvloop
from rich.console import Console

from schema.connections.database import Database
from schema.connections.error_kinds import is_transient, needs_operator
from schema.errors import Conflict, Unavailable
from service.cli.root import main
from service.database_access import open_database
from service.settings import Settings

__all__ = ["App", "command", "group", "main"]

P = ParamSpec("P")
T = TypeVar("T")

_UNWRAPPED = 1000  # columns where no terminal sets a width, so that no table cuts an id in two


@dataclass(frozen=True)
class App:
    """One invocation: its settings and its output."""

    settings: Settings
    json: bool
    out: Console
    err: Console

    def result(self, value: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """Prints `value` as one line of JSON, or calls `show` for text. Flushes, because a reader may wait for it."""
        if self.json:
            click.echo(orjson.dumps(value))
        else:
            show(self.out)
        sys.stdout.flush()

    def progress(self, line: str) -> None:
        if not self.json:
            self.err.print(f"{line} …", style="dim")

    @contextmanager
    def counting(self, line: str) -> Iterator[Callable[[str], None]]:
        """Shows `line` during long work; yields a function that replaces it. Silent without a terminal or with --json."""
        if self.json or not self.err.is_terminal:
            yield lambda _line: None
            return
        with self.err.status(line) as status:
            yield status.update

    def with_database(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` on a migrated database. The embedded one is started and migrated first if necessary."""
        with open_database(self.settings, self.progress) as base:

            async def run() -> T:
                if base.embedded:
                    await base.migrate(self.progress)
                async with Database.open(base.url, base.key, name="duro cli", max_per_role=2) as database:
                    return await work(database)

            with database_errors():
                return uvloop.run(run())


def command(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Declares a command that takes an App first. It gets --json, and --data-dir unless it declares its own."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(*args: Any, json: bool, **kwargs: Any) -> None:
            function(_app(json, kwargs.pop("data_dir") if shared else None), *args, **kwargs)

        made = group.command(name)(run)
        shared = all(option.name != "data_dir" for option in made.params)
        made.params += [_json_option(), _data_dir_option()] if shared else [_json_option()]
        return made

    return decorate


def group(name: str) -> Callable[[Callable[[], None]], click.Group]:
    """Declares a group of commands, as in `duro tenant create`."""
    return main.group(name, no_args_is_help=True)


def _json_option() -> click.Option:
    return click.Option(["--json"], is_flag=True, help="Print the result as one line of JSON.")


def _data_dir_option() -> click.Option:
    return click.Option(
        ["--data-dir"],
        type=click.Path(path_type=Path),
        help="Directory of the embedded database and its keys.  [default: DURO_DATA_DIR]",
    )


def _app(json: bool, data_dir: Path | None) -> App:
    settings = Settings.read(os.environ)
    if data_dir is not None:
        settings = replace(settings, data_dir=data_dir)
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return App(settings, json, _console(sys.stdout), _console(sys.stderr))


def _console(stream: IO[str]) -> Console:
    """Without markup, because the output may contain untrusted text."""
    width = None if stream.isatty() else _UNWRAPPED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns connection errors and missing rights into Unavailable, and the refusal of a sealed month into Conflict."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            f"The database does not let this login do it ({error.message}): "
            "run duro migrate with the URL of the database's owner, which repairs the rights of duro's roles."
        ) from None
    except Exception as error:
        # The exact type, since LockNotAvailableError is a subclass.
        if type(error) is asyncpg.ObjectNotInPrerequisiteStateError:
            raise Conflict(f"{error.message}.") from None
        if not is_transient(error) or needs_operator(error):
            raise
        if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
            raise Unavailable(
                f"Another session holds what this needs ({error.message}): try again, "
                "and if that does not help, see in pg_locks who it is."
            ) from None
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            raise Unavailable(
                f"The database has become read-only ({error.message}): name the primary in DURO_DATABASE_URL."
            ) from None
        raise Unavailable(
            f"The database went away in the middle ({str(error) or type(error).__name__}): "
            "see that it runs, and try again."
        ) from None
