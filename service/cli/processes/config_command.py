"""`duro config`."""

from rich.console import Console

from service.cli.app import App, command, main
from service.cli.views import table


@command(main, "config")
def config(app: App) -> None:
    """Show the settings with their values and defaults.

    Settings are environment variables with the names shown. Secret values are not printed.

    \b
    Example:
      DURO_RETRY_SCHEDULE=5s,30s,5m duro config
    """
    app.result({"settings": app.settings.rows()}, lambda out: _show(out, app))


def _show(out: Console, app: App) -> None:
    rows = app.settings.rows()
    headings = ("Setting", "Value", "Default", "")
    table(out, headings, [(r["name"], r["value"], r["default"], r["help"]) for r in rows], none="")
