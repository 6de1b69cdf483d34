"""`duro migrate`."""

import uvloop
from rich.console import Console

from schema.installation.migrate import MigrationResult
from service.cli.app import App, command, database_errors, main
from service.cli.options import beside
from service.database_access import open_database


@command(main, "migrate")
@beside
def migrate(app: App, *, beside: bool) -> None:
    """Migrate the database to this version.

    Forward only, each file in one transaction. It is safe to run again, and from several hosts at once: they wait
    for each other. Without DURO_DATABASE_URL this is the embedded database, which every command migrates by itself.

    Each run also repairs what a restored dump has lost, and prints it: the roles duro_…, their rights, and who owns
    duro's tables and functions.

    Needs the login of the database's owner in DURO_DATABASE_URL, who has CREATEROLE.

    \b
    Example:
      DURO_DATABASE_URL=postgresql://… DURO_SECRET_KEY=… duro migrate
    """
    with open_database(app.settings, app.progress) as base, database_errors():
        done = uvloop.run(base.migrate(app.progress, beside=beside))
    app.result({"applied": done.files, "repaired": done.repaired}, lambda out: _show(out, done))


def _show(out: Console, done: MigrationResult) -> None:
    if done.files:
        out.print(f"{done.files} migration{'s' if done.files > 1 else ''} applied.")
    for line in done.repaired:
        out.print(f"Repaired: {line}.")
    if not done.files and not done.repaired:
        out.print("Nothing to do: the database is up to date.")
