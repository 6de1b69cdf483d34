"""The `duro` command: root.py has the table of commands, app.py what they share; each room has one group of commands."""

from service.cli.root import main

__all__ = ["main"]
