"""`duro tenant`."""

import click
from rich.console import Console

from schema.core import tenants
from schema.core.tenants import Tenant
from schema.ids import TENANT, format_id
from schema.modes import Mode
from schema.pages import After, Page
from service.admin.shapes import page_shape, tenant_shape
from service.cli import options
from service.cli.app import App, command, group
from service.cli.views import fields, more, table


@group("tenant")
def tenant() -> None:
    """Create and list tenants. A tenant is one business: its events, endpoints and deliveries."""


@command(tenant, "create")
@click.argument("name")
def create(app: App, name: str) -> None:
    """Create a tenant. Prints its id and one secret key per mode, which cannot be shown again.

    No command needs the keys yet: this version has no HTTP API.

    \b
    Example:
      duro tenant create "Lagos Gym"
    """
    tenant_id, keys = app.with_database(lambda database: tenants.create(database.core, name))
    shown = format_id(TENANT, tenant_id)
    app.result(
        {"id": shown, "keys": {mode.value: key for mode, key in keys.items()}},
        lambda out: _show_created(out, shown, keys),
    )


@command(tenant, "list")
@options.page
def list_(app: App, limit: int, after: After) -> None:
    """List tenants, newest first.

    \b
    Example:
      duro tenant list --limit 50
    """
    page = app.with_database(lambda database: tenants.list_tenants(database.core, after, limit))
    app.result(page_shape(page, tenant_shape), lambda out: _show_page(out, page))


def _show_created(out: Console, tenant_id: str, keys: dict[Mode, str]) -> None:
    fields(out, {"Tenant": tenant_id, **{f"Key for {mode}": key for mode, key in keys.items()}})
    out.print("Save the keys: they cannot be shown again.")


def _show_page(out: Console, page: Page[Tenant]) -> None:
    rows = [(format_id(TENANT, t.id), t.name, t.created_at) for t in page.items]
    table(out, ("Tenant", "Name", "Created"), rows, none="There are no tenants: duro tenant create NAME.")
    more(out, page)
