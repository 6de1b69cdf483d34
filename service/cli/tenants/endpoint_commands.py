"""`duro endpoint create | update | list | show | rotate-secret`."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from schema.core.endpoints import HIGHEST_RATE, NO_LIMIT
from schema.errors import InvalidInput
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from schema.pages import After
from schema.timestamps import iso_millis
from service.admin.endpoint_admin import EndpointInput
from service.admin.shapes import endpoint_shape, page_shape
from service.cli import options
from service.cli.app import App, command
from service.cli.input_files import FILE, STDIN, add_header, parse_headers, read_secret, read_text
from service.cli.tenants import endpoint_sending, endpoint_switches
from service.cli.tenants.endpoint_group import ID, administer, endpoint, show_changed
from service.cli.tenants.endpoint_views import show_created, show_page, show_rotated

__all__ = ["endpoint", "endpoint_sending", "endpoint_switches"]

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_GRACE: Final = timedelta(days=30)

_secret_stdin = click.option(
    "--secret-stdin",
    is_flag=True,
    help="Read the signing secret (whsec_…) from standard input instead of generating one.",
)


class _RateLimit(click.ParamType[int]):
    """`50`, or `none`."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        if value == "none":
            return NO_LIMIT
        if str(value).isascii() and str(value).isdigit() and 1 <= int(value) <= HIGHEST_RATE:
            return int(value)
        raise InvalidInput(f"--rate-limit is from 1 to {HIGHEST_RATE} deliveries per second, or none.")


def _wishes(function: F) -> F:
    """Adds the options for an endpoint's fields other than its URL."""
    for option in (
        click.option(
            "--rate-limit",
            type=_RateLimit(),
            help="Maximum deliveries per second, over all workers. Deliveries over the limit wait.",
        ),
        click.option("--description", help="A note, at most 500 characters."),
        click.option(
            "--headers-file",
            type=FILE,
            help="Custom headers from a file (- is standard input), one Name: value per line. "
            "The values do not appear in process lists.",
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME=VALUE",
            help="A custom header; may be repeated.",
        ),
        click.option(
            "--event",
            "event_types",
            multiple=True,
            metavar="TYPE",
            help="Deliver this event type, or a pattern such as 'subscription_*'; may be repeated.",
        ),
    ):
        function = option(function)
    return function


@command(endpoint, "create")
@options.tenant
@options.mode
@click.option(
    "--url",
    required=True,
    help="https on port 443 or 8443. Networks in DURO_EGRESS_ALLOW may use http and other ports.",
)
@_wishes
@_secret_stdin
def create(
    app: App,
    tenant: UUID,
    mode: Mode,
    url: str,
    event_types: Sequence[str],
    headers: Sequence[str],
    headers_file: str | None,
    description: str | None,
    rate_limit: int | None,
    *,
    secret_stdin: bool,
) -> None:
    """Create an endpoint and its signing secret, which is shown once.

    Without --event the endpoint receives every event type. The URL must lead to a public address, or to a network in
    DURO_EGRESS_ALLOW.

    \b
    Example:
      duro endpoint create --tenant ten_… --mode live --url https://shop.example/webhooks \\
          --event 'subscription_*' --event invoice_created
    """
    fields = EndpointInput(
        None, description, event_types, _headers(headers, headers_file, secret_stdin), rate_limit
    )
    secret = read_secret() if secret_stdin else None
    endpoint_id, secret = administer(app, lambda admin: admin.create(tenant, mode, url, fields, secret))
    shown = format_id(ENDPOINT, endpoint_id)
    app.result({"id": shown, "secret": secret}, lambda out: show_created(out, shown, secret))


@command(endpoint, "update")
@click.argument("endpoint_id", type=ID)
@click.option("--url", help="The new URL. Retries of earlier deliveries use it too.")
@_wishes
@click.option("--all-events", is_flag=True, help="Deliver events of every type.")
@click.option("--no-headers", is_flag=True, help="Send no custom headers.")
def update(
    app: App,
    endpoint_id: UUID,
    url: str | None,
    event_types: Sequence[str],
    headers: Sequence[str],
    headers_file: str | None,
    description: str | None,
    rate_limit: int | None,
    *,
    all_events: bool,
    no_headers: bool,
) -> None:
    """Change an endpoint. Options that are not given stay; event types and headers are replaced as a whole.

    \b
    Example:
      duro endpoint update we_… --url https://shop.example/v2/webhooks --event invoice_created
    """
    if all_events and event_types:
        raise click.UsageError("--all-events and --event exclude each other: use one of them.")
    if no_headers and (headers or headers_file):
        raise click.UsageError("--no-headers and new headers exclude each other: use one of them.")
    fields = EndpointInput(
        url,
        description,
        event_types if event_types or all_events else None,
        _headers(headers, headers_file) if headers or headers_file or no_headers else None,
        rate_limit,
    )
    if fields == EndpointInput():
        raise click.UsageError(
            "Nothing to change: give --url, --event, --all-events, --header, --headers-file, --no-headers, "
            "--description or --rate-limit."
        )
    show_changed(app, administer(app, lambda admin: admin.update(endpoint_id, fields)))


@command(endpoint, "list")
@options.tenant
@options.mode
@options.page
def list_(app: App, tenant: UUID, mode: Mode, limit: int, after: After) -> None:
    """List a tenant's endpoints in one mode, newest first.

    \b
    Example:
      duro endpoint list --tenant ten_… --mode test
    """
    page = administer(app, lambda admin: admin.list_page(tenant, mode, after, limit))
    app.result(page_shape(page, endpoint_shape), lambda out: show_page(out, page))


@command(endpoint, "show")
@click.argument("endpoint_id", type=ID)
def show(app: App, endpoint_id: UUID) -> None:
    """Show one endpoint. Secrets and the values of custom headers are never shown.

    \b
    Example:
      duro endpoint show we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """
    show_changed(app, administer(app, lambda admin: admin.show(endpoint_id)))


@command(endpoint, "rotate-secret")
@click.argument("endpoint_id", type=ID)
@click.option(
    "--grace",
    type=options.Duration(timedelta(0), _LONGEST_GRACE),
    help="How long the old secret keeps signing beside the new one.  [default: DURO_ROTATION_GRACE]",
)
@_secret_stdin
def rotate_secret(app: App, endpoint_id: UUID, grace: timedelta | None, *, secret_stdin: bool) -> None:
    """Give an endpoint a new signing secret, which is shown once.

    During the grace period every webhook carries one signature per secret, so the receiver can switch at any time.
    With --grace 0s the old secret stops signing at once. Use that when it has leaked.

    \b
    Example:
      duro endpoint rotate-secret we_… --grace 24h
    """
    secret = read_secret() if secret_stdin else None
    grace = app.settings.rotation_grace if grace is None else grace
    secret, until = administer(app, lambda admin: admin.rotate_secret(endpoint_id, secret, grace))
    shown = format_id(ENDPOINT, endpoint_id)
    app.result(
        {"id": shown, "secret": secret, "oldSecretSignsUntil": iso_millis(until)},
        lambda out: show_rotated(out, shown, secret, until),
    )


def _headers(given: Sequence[str], file: str | None, secret_stdin: bool = False) -> dict[str, str]:
    """Parses NAME=VALUE, or `Name: value` lines. Errors never repeat a value."""
    if file == STDIN and secret_stdin:
        raise click.UsageError(
            "--headers-file - and --secret-stdin both read standard input: use a file for one of them."
        )
    headers = parse_headers(read_text(file).splitlines()) if file else {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError("--header is NAME=VALUE, as in --header 'X-Shop=12'.")
        add_header(headers, name, value)
    return headers
