"""Example migrations after this version: one of each kind that the rule allows."""

from collections.abc import Sequence
from pathlib import Path

from schema.installation.migration import Migration
from schema.modes import Mode

_FOLDER = Path(__file__).parents[1] / "schema" / "further_migrations" / "data"


def further_migrations() -> Sequence[Migration]:
    """Returns them in order of application."""
    return [
        Migration(mode.schema, file.name, file.read_text())
        for mode in Mode
        for file in sorted(_FOLDER.glob("*.sql"))
    ]
