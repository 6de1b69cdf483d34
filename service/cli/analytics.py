"""`duro analytics`: the views for analysts, files of them, and the analyst's login."""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final

import click
from rich.console import Console

from schema import analytics as published
from schema.analytics import View
from schema.database import Database, connect_as_owner
from schema.errors import Conflict, InvalidInput, NotFound
from schema.modes import Mode
from schema.roles import analyst_of, set_analyst_password
from service.analytics.export import STDOUT, Request, reading, rows, target
from service.analytics.span import bounds, parse_point
from service.analytics.writers import Format, writing
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import fields, table
from service.interrupts import interrupt_on_any_signal

_LINE_EVERY_S: Final = 5.0


@dataclass(slots=True)
class Exported:
    rows: int = 0
    bytes: int = 0


@group("analytics")
def analytics() -> None:
    """Figures for analysts: revenue, payments, recovery, movements, MRR and delivery health, as SQL views and as files."""


@command(analytics, "views")
@click.argument("view", required=False)
@options.mode
def views(app: App, view: str | None, mode: Mode) -> None:
    """List the views that a mode publishes, or what the columns of one mean.

    \b
    Example:
      duro analytics views --mode live
      duro analytics views mrr --mode live
    """
    found = app.with_database(lambda database: published.views(database.data(mode), mode))
    if view is not None:
        one = _chosen(found, view)
        app.result(_view_shape(one), lambda out: _show_view(out, one))
    else:
        app.result({"items": [_view_shape(each) for each in found]}, lambda out: _show_views(out, found))


@command(analytics, "export")
@click.option("--view", required=True, metavar="NAME", help="Which view: see duro analytics views.")
@options.mode
@click.option("--from", "since", metavar="DAY|TIME|30d", help="From then on.  [default: the beginning]")
@click.option("--to", "until", metavar="DAY|TIME|30d", help="Before then.  [default: now]")
@click.option(
    "--format",
    "format_",
    type=click.Choice([kind.value for kind in Format]),
    default="csv",
    show_default=True,
)
@click.option(
    "--output", "-o", default=STDOUT, metavar="FILE", help="Where to.  [default: -, standard output]"
)
@click.option("--overwrite", is_flag=True, help="Replace the file if there is one.")
def export(
    app: App,
    view: str,
    mode: Mode,
    since: str | None,
    until: str | None,
    format_: str,
    output: str,
    overwrite: bool,
) -> None:
    """Write a view into a file, all of it as of one moment.

    DAY is 2026-06-01, and is not in it where --to names it; TIME is 2026-06-01T09:00:00Z, and 30d is that long ago. Days in
    a view are each tenant's own. The file appears when it is complete. Money is whole kobo beside its currency.

    \b
    Example:
      duro analytics export --view daily_revenue --mode live --from 2026-01-01 --to 2026-07-01 > revenue.csv
      duro analytics export --view mrr --mode live --format parquet --output mrr.parquet
    """
    interrupt_on_any_signal()
    kind = Format(format_)
    if kind is Format.PARQUET and output == STDOUT and sys.stdout.isatty():
        raise InvalidInput("Parquet is not for a terminal: give --output FILE.")
    if app.json and output == STDOUT:
        raise click.UsageError("The rows and --json cannot both go to standard output: give --output FILE.")
    now = datetime.now(UTC)
    span = _point(since, now), _point(until, now)
    with app.counting("Exporting") as count:
        done = app.with_database(
            lambda database: _export(app, database, mode, view, span, kind, (output, overwrite), count)
        )
    if output != STDOUT:
        result = {"view": view, "mode": mode.value, "file": output, "rows": done.rows, "bytes": done.bytes}
        app.result(result, lambda out: out.print(f"{done.rows:,} rows in {output}, {done.bytes:,} bytes."))


def _point(text: str | None, now: datetime) -> datetime | None:
    return None if text is None else parse_point(text, now)


async def _export(
    app: App,
    database: Database,
    mode: Mode,
    name: str,
    span: tuple[datetime | None, datetime | None],
    kind: Format,
    where: tuple[str, bool],
    count: Any,
) -> Exported:
    done = Exported()
    async with reading(database, mode) as connection:
        view = _chosen(await published.views(connection, mode), name)
        request = Request(view, *bounds(view.time.name if view.time else "", *span))
        told_at = time.monotonic()
        with target(where[0], overwrite=where[1]) as file, writing(kind, file, view.columns) as write:
            async for lot in rows(connection, request):
                await asyncio.to_thread(write, lot)
                done.rows += len(lot)
                line = f"Exporting {name}: {done.rows:,} rows"
                count(line)
                if not app.err.is_terminal and time.monotonic() - told_at > _LINE_EVERY_S:
                    told_at = time.monotonic()
                    app.progress(line)
        done.bytes = file.bytes
    return done


@command(analytics, "password")
@options.mode
@click.option("--remove", is_flag=True, help="Let nobody log in as the analyst any more.")
def password(app: App, mode: Mode, remove: bool) -> None:
    """Give a mode's analyst a new password, and show the URL to log in with, once.

    The role sees the published views of its mode and nothing else. A statement of its may take 30 s, and five
    sessions may be open at once: ALTER ROLE changes either. Roles, and so the password, are the whole server's.

    \b
    Example:
      duro analytics password --mode live
    """
    secret = None if remove else secrets.token_urlsafe(24)
    role = analyst_of(mode)

    async def run(database: Database) -> str | None:
        owner = await connect_as_owner(database.url)
        try:
            await set_analyst_password(owner, mode, secret)
        finally:
            await owner.close()
        return secret and database.target.with_login(role, secret).url()

    shown = {"role": role, "url": app.with_database(run)}
    app.result(shown, lambda out: _show_login(out, shown))


def _show_login(out: Console, shown: dict[str, Any]) -> None:
    if shown["url"] is None:
        out.print(f"Nobody can log in as {shown['role']} any more; sessions that are open stay.")
        return
    fields(out, {"Role": shown["role"], "URL": shown["url"]})
    out.print("Keep the URL: its password cannot be shown again.")


def _chosen(found: Sequence[View], name: str) -> View:
    for view in found:
        if view.name == name:
            return view
    names = [view.name for view in found]
    if not names:
        raise Conflict("This database publishes no views: run duro migrate.")
    near = get_close_matches(name, names, 1)
    raise NotFound(
        f"There is no view {name!r}: "
        + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}.")
    )


def _view_shape(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "meaning": view.meaning,
        "columns": [{"name": c.name, "type": c.type, "meaning": c.meaning} for c in view.columns],
    }


def _show_views(out: Console, found: Sequence[View]) -> None:
    rows = [(view.name, view.meaning.partition(". ")[0].rstrip(".")) for view in found]
    table(out, ("View", "What it tells"), rows, none="There are no views.")


def _show_view(out: Console, view: View) -> None:
    out.print(view.meaning)
    table(out, ("Column", "Type", "Meaning"), [(c.name, c.type, c.meaning) for c in view.columns], none="")
