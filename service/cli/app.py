"""What every command shares: settings, output for people or machines, errors in one line, exit status.

Exit status: 0, 1 (it failed), 2 (used wrongly). Results go to stdout, as JSON with --json; everything else goes to
stderr, so a script can read one and a person the other.
"""

import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import click
import orjson
import uvloop
from rich.console import Console

from schema.database import Database
from schema.errors import DuroError
from service.backbone import backbone
from service.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class App:
    """One invocation: its settings and where its words go."""

    settings: Settings
    json: bool
    out: Console
    err: Console

    def result(self, value: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """`value` as one line of JSON, or whatever `show` prints for people."""
        if self.json:
            click.echo(orjson.dumps(value, default=str))
        else:
            show(self.out)

    def progress(self, line: str) -> None:
        if not self.json:
            self.err.print(f"{line} …", style="dim", highlight=False)

    def with_database(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` on a migrated database, starting (and migrating) the embedded one if need be."""
        with backbone(self.settings, self.progress) as base:

            async def run() -> T:
                if base.embedded:
                    await base.migrate(self.progress)
                async with Database.open(base.url, base.key, name="duro cli", max_per_role=2) as database:
                    return await work(database)

            return uvloop.run(run())


def command(group: click.Group, name: str, **options: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command that takes an App first and has --json; DuroErrors become one line on stderr."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(*args: Any, json: bool, **kwargs: Any) -> None:
            err = Console(stderr=True, highlight=False)
            settings = Settings.read(os.environ)
            logging.basicConfig(
                level=settings.log_level.upper(),
                stream=sys.stderr,
                format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            )
            function(App(settings, json, Console(highlight=False), err), *args, **kwargs)

        run = click.option("--json", is_flag=True, help="Print the result as one line of JSON.")(run)
        return group.command(name, **options)(run)

    return decorate


class _Group(click.Group):
    """The root: turns errors into one line and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except DuroError as error:
            click.echo(f"duro: {error}", err=True)
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="duro-webhooks", prog_name="duro")
def main() -> None:
    """Self-hosted webhook delivery that needs one Postgres and loses nothing."""
