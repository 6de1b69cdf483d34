"""`duro migrate`."""

import uvloop
from rich.console import Console

from service.backbone import backbone
from service.cli.app import App, command, database_errors, main


@command(main, "migrate")
def migrate(app: App) -> None:
    """Bring the database up to this version.

    Forward only, each file in one transaction. It is safe to run again, and from several hosts at once: the others
    wait. Without DURO_DATABASE_URL it is the embedded database, which every command migrates by itself.

    \b
    Example:
      DURO_DATABASE_URL=postgresql://… DURO_SECRET_KEY=… duro migrate
    """
    with backbone(app.settings, app.progress) as base, database_errors():
        applied = uvloop.run(base.migrate(app.progress))
    app.result({"applied": applied}, lambda out: _show(out, applied))


def _show(out: Console, applied: int) -> None:
    if applied:
        out.print(f"{applied} migration{'s' if applied > 1 else ''} applied.")
    else:
        out.print("Nothing to do: the database is up to date.")
