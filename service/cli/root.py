"""The root of `duro`: which commands there are, and how each ends.

    status 0     it worked
           1     it failed              one line on stderr that says what to do
           2     it was used wrongly    one line on stderr that says what to do
           130   Ctrl-C

A command's module is imported when it is called, so that `duro --help` answers at once. Only an exception that
is a defect of ours keeps its traceback.
"""

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

import click

from schema.errors import DuroError
from service.interrupts import accept_ctrl_c

INTERRUPTED: Final = 130

SECTIONS: Final = {
    "Run": {
        "up": "Run everything on this machine: database, migrations and workers.",
        "demo": "A show of the main job: events in, verified webhooks out.",
        "bench": "How fast it is on this machine, against what.",
        "work": "One worker.",
        "migrate": "Bring the database up to this version.",
        "config": "The settings, their values and defaults.",
    },
    "Manage": {
        "tenant": "Create and list tenants.",
        "endpoint": "Where a tenant's webhooks go.",
        "event": "Record events and look at them.",
        "activity": "What happened, one readable line per event.",
        "delivery": "Look at deliveries, and replay them.",
        "retries": "Pause and resume all retries of a mode.",
        "billing": "Renew and recover subscriptions, or simulate a business.",
        "analytics": "Figures for analysts, as SQL views and as files.",
        "consumers": "How far the log has been worked off, and which events are dead-lettered.",
        "retention": "Drop old months that nobody needs any more.",
    },
    "Receive": {
        "listen": "A local receiver that verifies webhooks and prints them.",
        "verify": "Check the signature of a webhook kept in a file.",
    },
}


class Root(click.Group):
    """Imports `service.cli.NAME` for `duro NAME`; the import registers the command here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.list_commands(ctx):
            import_module(f"service.cli.{cmd_name}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f"did you mean {near[0]}?" if near else "duro --help lists those there are."
            raise click.UsageError(f"There is no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        accept_ctrl_c()
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except (KeyboardInterrupt, click.Abort):
            status = INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as wanted:
            wanted.show()
            status = wanted.exit_code
        except click.ClickException as error:
            _complain(_usage_sentence(error))
            status = error.exit_code
        except DuroError as error:
            _complain(str(error))
            status = error.exit_status
        sys.exit(status if isinstance(status, int) else 0)


def _complain(sentence: str) -> None:
    click.echo(f"duro: {' '.join(sentence.split())}", err=True)


def _usage_sentence(error: click.ClickException) -> str:
    sentence = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or context.parent is None:
        return sentence
    return f"{sentence} ({context.command_path} --help shows how it is used)"


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="duro-webhooks", prog_name="duro")
def main() -> None:
    """Self-hosted webhook delivery that needs one Postgres and loses nothing.

    Every command takes --json and prints its result on stdout; all else goes to stderr. The exit status is
    0, 1 when it failed and 2 when it was used wrongly.

    \b
    Example:
      duro demo
    """
