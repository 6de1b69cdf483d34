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

from schema.connections.database import Database, connect_as_owner
from schema.connections.owner_login import refuse_other_logins
from schema.errors import Conflict, InvalidInput, NotFound
from schema.installation.roles import analyst_of, set_analyst_password
from schema.modes import Mode
from schema.read_models import analytics as published
from schema.read_models.analytics import View
from service.analytics.export import STDOUT, ExportRequest, reading, rows, target
from service.analytics.file_writers import Format, writing
from service.analytics.span import bounds, parse_point
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
    """SQL views for analysts: revenue, payments, recovery, movements, MRR and delivery health."""


@command(analytics, "views")
@click.argument("view", required=False)
@options.mode
def views(app: App, view: str | None, mode: Mode) -> None:
    """List the views of a mode, or the columns of one view.

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
@click.option("--view", required=True, metavar="NAME", help="The view: see duro analytics views.")
@options.mode
@click.option("--from", "since", metavar="DAY|TIME|30d", help="Start of the rows.  [default: the first]")
@click.option("--to", "until", metavar="DAY|TIME|30d", help="End of the rows, exclusive.  [default: now]")
@click.option(
    "--format",
    "format_",
    type=click.Choice([kind.value for kind in Format]),
    default="csv",
    show_default=True,
)
@click.option(
    "--output", "-o", default=STDOUT, metavar="FILE", help="The output file.  [default: -, standard output]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
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
    """Write the rows of a view to a file, from one snapshot.

    DAY is 2026-06-01, TIME is 2026-06-01T09:00:00Z, and 30d means 30 days ago; --to is exclusive. Days are in each
    tenant's time zone. The file appears when it is complete. Money is in minor units (kobo for NGN) beside its currency.

    \b
    Example:
      duro analytics export --view daily_revenue --mode live --from 2026-01-01 --to 2026-07-01 > revenue.csv
      duro analytics export --view mrr --mode live --format parquet --output mrr.parquet
    """
    interrupt_on_any_signal()
    kind = Format(format_)
    if kind is Format.PARQUET and output == STDOUT and sys.stdout.isatty():
        raise InvalidInput("Parquet cannot be written to a terminal: add --output FILE.")
    if app.json and output == STDOUT:
        raise click.UsageError("The rows and --json cannot both use standard output: add --output FILE.")
    now = datetime.now(UTC)
    span = _point(since, now), _point(until, now)
    with app.counting("Exporting") as count:
        done = app.with_database(
            lambda database: _export(app, database, mode, view, span, kind, (output, overwrite), count)
        )
    if output != STDOUT:
        result = {"view": view, "mode": mode.value, "file": output, "rows": done.rows, "bytes": done.bytes}
        app.result(
            result, lambda out: out.print(f"{done.rows:,} rows written to {output}, {done.bytes:,} bytes.")
        )


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
        request = ExportRequest(view, *bounds(view.time.name if view.time else "", *span))
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
@click.option("--remove", is_flag=True, help="Remove the password, so that no login is possible.")
def password(app: App, mode: Mode, remove: bool) -> None:
    """Set a new password for the analyst role of a mode, and print its login URL once.

    The role sees the published views of its mode and nothing else. It has five sessions and 30 s per statement;
    ALTER ROLE changes both. Roles, and so the password, belong to the whole database server.

    Needs the login of the database's owner in DURO_DATABASE_URL.

    \b
    Example:
      duro analytics password --mode live
    """
    secret = None if remove else secrets.token_urlsafe(24)
    role = analyst_of(mode)

    async def run(database: Database) -> str | None:
        owner = await connect_as_owner(database.url)
        try:
            await refuse_other_logins(owner, "duro analytics password")
            await set_analyst_password(owner, mode, secret)
        finally:
            await owner.close()
        return secret and database.target.with_login(role, secret).url()

    shown = {"role": role, "url": app.with_database(run)}
    app.result(shown, lambda out: _show_login(out, shown))


def _show_login(out: Console, shown: dict[str, Any]) -> None:
    if shown["url"] is None:
        out.print(f"No new login as {shown['role']} is possible. Open sessions stay open.")
        return
    fields(out, {"Role": shown["role"], "URL": shown["url"]})
    out.print("Save the URL: its password cannot be shown again.")


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
        + (f"did you mean {near[0]}?" if near else f"the views are {', '.join(names)}.")
    )


def _view_shape(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "meaning": view.meaning,
        "columns": [{"name": c.name, "type": c.type, "meaning": c.meaning} for c in view.columns],
    }


def _show_views(out: Console, found: Sequence[View]) -> None:
    rows = [(view.name, view.meaning.partition(". ")[0].rstrip(".")) for view in found]
    table(out, ("View", "Content"), rows, none="No views.")


def _show_view(out: Console, view: View) -> None:
    out.print(view.meaning)
    table(out, ("Column", "Type", "Meaning"), [(c.name, c.type, c.meaning) for c in view.columns], none="")
