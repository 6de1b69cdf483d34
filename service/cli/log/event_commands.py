"""`duro event`."""

from typing import Final
from uuid import UUID

import click
import orjson
from rich.console import Console

from consumers.event_type_matching import validate_patterns
from schema.connections.database import Database
from schema.core import tenants
from schema.errors import InvalidInput
from schema.event_catalog import EventType, catalog
from schema.event_log import events
from schema.event_log.events import Event, EventDetail
from schema.ids import DELIVERY, ENDPOINT, EVENT, format_id
from schema.modes import Mode
from schema.pages import After, Page
from service.admin.lookup import Location, locate_event
from service.admin.shapes import event_shape, event_type_shape, page_shape, shown_event_shape
from service.cli import options
from service.cli.app import App, command, group
from service.cli.input_files import STDIN, read_text
from service.cli.views import fields, more, table, visible

_LONGEST_IN_TABLE: Final = 60


@group("event")
def event() -> None:
    """Record and show events. Producers use record_event() in SQL, in their own transactions."""


@command(event, "record")
@options.tenant
@options.mode
@click.option(
    "--type",
    "type_",
    required=True,
    metavar="TYPE",
    help="An event type, such as invoice_created: see duro event types.",
)
@click.option(
    "--data",
    required=True,
    metavar="JSON|@FILE|-",
    help="A JSON object, from the argument, a file or standard input.",
)
def record(app: App, tenant: UUID, mode: Mode, type_: str, data: str) -> None:
    """Record an event, as a producer does with record_event() in SQL.

    It is delivered to each endpoint of the tenant in this mode that receives its type. The data has at most 256 KiB.

    \b
    Example:
      duro event record --tenant ten_… --mode test --type invoice_created \\
          --data '{"invoiceId": "inv_…", "amount": 500000, "currency": "NGN"}'
    """
    text = _read_data(data)

    async def run(database: Database) -> UUID:
        pool = database.data(mode)
        validate_patterns([type_], await events.type_names(pool))  # its sentence names near misses
        return await events.record(pool, tenant, type_, text)

    shown = format_id(EVENT, app.with_database(run))
    app.result({"id": shown}, lambda out: out.print(shown))


@command(event, "list")
@options.tenant
@options.mode
@click.option("--type", "type_", metavar="TYPE", help="Only events of this type.")
@options.page
def list_(app: App, tenant: UUID, mode: Mode, type_: str | None, limit: int, after: After) -> None:
    """List a tenant's events in one mode, newest first.

    \b
    Example:
      duro event list --tenant ten_… --mode live --type invoice_created
    """

    async def find(database: Database) -> Page[Event]:
        await tenants.require(database.core, tenant)
        pool = database.data(mode)
        if type_ is not None:
            validate_patterns([type_], await events.type_names(pool))
        return await events.list_events(pool, tenant, type_, after, limit)

    page = app.with_database(find)
    app.result(page_shape(page, event_shape), lambda out: _show_page(out, page))


@command(event, "show")
@click.argument("event_id", type=options.Id(EVENT))
def show(app: App, event_id: UUID) -> None:
    """Show one event with its position in the log and its deliveries. The id is enough, in either mode.

    \b
    Example:
      duro event show evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """

    async def find(database: Database) -> tuple[Location, EventDetail]:
        location = await locate_event(database, event_id)
        return location, await events.show(location.pool, location.tenant_id, event_id)

    location, shown = app.with_database(find)
    app.result(
        shown_event_shape(shown, location.tenant, location.mode),
        lambda out: _show_event(out, location, shown),
    )


@command(event, "types")
@click.argument("type_", metavar="[TYPE]", required=False)
def types(app: App, type_: str | None) -> None:
    """List the event types, or show the JSON Schema (draft 2020-12) and an example of one type's data.

    The schemas describe what duro itself records; record_event() accepts any JSON object.

    \b
    Example:
      duro event types
      duro event types subscription_payment_failed
    """
    if type_ is None:
        app.result({"items": [event_type_shape(found) for found in catalog().values()]}, _show_types)
        return
    found = _look_up(type_)
    app.result(event_type_shape(found), lambda out: _show_type(out, found))


def _look_up(name: str) -> EventType:
    known = catalog()
    validate_patterns([name], known)  # its sentence names near misses
    if name not in known:
        raise InvalidInput(f"{name!r} is a pattern: give one type, see duro event types.")
    return known[name]


def _read_data(argument: str) -> str:
    """Returns the JSON text unchanged, because parsing it here could change its numbers. Raises InvalidInput."""
    if argument == STDIN or argument.startswith("@"):
        text = read_text(argument.removeprefix("@"))
    else:
        text = argument
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The event data is not JSON: {error}.") from None
    return text


def _show_page(out: Console, page: Page[Event]) -> None:
    rows = [(format_id(EVENT, e.id), e.type, e.created_at, _shortened(e.data)) for e in page.items]
    table(out, ("Event", "Type", "Created", "Data"), rows, none="No events found.")
    more(out, page)


def _show_event(out: Console, location: Location, event: EventDetail) -> None:
    fields(
        out,
        {
            "Event": format_id(EVENT, event.id),
            "Type": event.type,
            "Tenant": location.tenant,
            "Mode": location.mode,
            "Created": event.created_at,
            "Position": "none yet" if event.pos is None else event.pos,
        },
    )
    out.print(f"\n{visible(event.data)}\n", soft_wrap=True)
    rows = [
        (format_id(DELIVERY, d.id), format_id(ENDPOINT, d.endpoint_id), d.status, d.attempts)
        for d in event.deliveries
    ]
    table(out, ("Delivery", "Endpoint", "Status", "Attempts"), rows, none="No deliveries.")


def _show_types(out: Console) -> None:
    rows = [(found.name, found.description) for found in catalog().values()]
    table(out, ("Type", "Description"), rows, none="")


def _show_type(out: Console, found: EventType) -> None:
    fields(out, {"Type": found.name, "Description": found.description})
    for title, value in (("Schema of its data", found.schema), ("Example", found.example)):
        out.print(f"\n{title}", style="bold")
        out.print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), soft_wrap=True)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_IN_TABLE else f"{text[:_LONGEST_IN_TABLE]}…"
