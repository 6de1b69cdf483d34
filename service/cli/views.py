"""Tables as text. Untrusted text cannot move the cursor or colour the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from schema.pages import Page
from schema.timestamps import iso_millis


def table(out: Console, headings: Sequence[str], rows: Iterable[Sequence[object]], none: str) -> None:
    """`none` is printed when there are no rows."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold", no_wrap=not grid.columns)  # users copy the first column
    for row in rows:
        grid.add_row(*map(visible, row))
    if grid.row_count:
        out.print(grid)
    else:
        out.print(none, style="dim")


def fields(out: Console, values: Mapping[str, object]) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, visible(value))
    out.print(grid)


def more(out: Console, page: Page[Any]) -> None:
    if page.next_cursor is not None:
        out.print(f"Next page: --cursor {page.next_cursor}", style="dim", soft_wrap=True)


def visible(value: object) -> str:
    """Formats control characters as escapes (`\\x1b`), times in UTC, and an empty value as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return iso_millis(value)
    return "".join(map(_visible_character, str(value)))


def _visible_character(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode()
