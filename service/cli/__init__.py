"""The `duro` command: root.py is the table of commands, app.py what they share, and each is a small module here."""

from service.cli.root import main

__all__ = ["main"]
