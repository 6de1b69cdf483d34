"""The root of `duro`: its commands, and their exit statuses.

    status 0     success
           1     failure        one line on stderr that says what to do
           2     wrong usage    one line on stderr that says what to do
           130   Ctrl-C

The module of a command is imported when the command is called, so that `duro --help` answers at once. Only an
unexpected exception, a bug, keeps its traceback.
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
        "demo": "Demonstrate the main job: events in, verified webhooks out.",
        "bench": "Measure performance on this machine.",
        "work": "Run one worker.",
        "migrate": "Migrate the database to this version.",
        "config": "Show the settings with their values and defaults.",
    },
    "Manage": {
        "tenant": "Create and list tenants.",
        "endpoint": "Create and manage webhook endpoints.",
        "event": "Record and show events.",
        "activity": "Show the activity feed: one readable entry per event.",
        "delivery": "Show and replay deliveries.",
        "retries": "Pause and resume all retries of a mode.",
        "billing": "Run the billing engine, or simulate a business.",
        "analytics": "Publish and export SQL views for analysts.",
        "consumers": "Show consumer lag and dead-lettered events; rebuild projections.",
        "retention": "Delete old months of data.",
    },
    "Receive": {
        "listen": "Receive, verify and print webhooks on this machine.",
        "verify": "Check the signature of a webhook saved in a file.",
    },
}

_MODULES: Final = {
    "up": "processes.up_command",
    "demo": "processes.demo_command",
    "bench": "processes.bench_command",
    "work": "processes.work_command",
    "migrate": "processes.migrate_command",
    "config": "processes.config_command",
    "tenant": "tenants.tenant_commands",
    "endpoint": "tenants.endpoint_commands",
    "event": "log.event_commands",
    "activity": "log.activity_commands",
    "consumers": "log.consumers_commands",
    "analytics": "log.analytics_commands",
    "retention": "log.retention_commands",
    "delivery": "deliveries.delivery_commands",
    "retries": "deliveries.retries_commands",
    "billing": "billing.billing_commands",
    "listen": "receiving.listen_command",
    "verify": "receiving.verify_command",
}
"""Command to its module in service.cli."""


class Root(click.Group):
    """Imports the module of `duro NAME`; the import registers the command here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.list_commands(ctx):
            import_module(f"service.cli.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            hint = f"did you mean {near[0]}?" if near else "duro --help lists the commands."
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
    return f"{sentence} (see {context.command_path} --help)"


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="duro-webhooks", prog_name="duro")
def main() -> None:
    """Self-hosted webhook delivery on PostgreSQL.

    Every command takes --json and prints its result on stdout; everything else goes to stderr. The exit status is
    0 on success, 1 on failure and 2 for wrong usage.

    \b
    Example:
      duro demo
    """
