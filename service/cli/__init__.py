"""The `duro` command. Each command is a small module here; app.py holds what they share."""

from service.cli.app import main

__all__ = ["main"]
