"""`duro verify`."""

import time
from datetime import timedelta
from typing import Any, Final

import click
from rich.console import Console

from delivery.message.endpoint_secret import parse_secret
from schema.durations import parse_duration
from schema.errors import DuroError
from service.cli.app import App, command, main
from service.cli.input_files import FILE, STDIN, parse_headers, read_bytes, read_secrets, read_text
from service.cli.views import table
from service.receiver.webhook_check import Check, check_webhook

_ANY: Final = "any"
_LONGEST: Final = timedelta(days=3660)


class _Tolerance(click.ParamType[float | None]):
    """Seconds, or None for a signature of any age."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:  # noqa: ARG002
        return None if value == _ANY else parse_duration(value, maximum=_LONGEST).total_seconds()


@command(main, "verify")
@click.option(
    "--secret-file",
    type=FILE,
    required=True,
    help="File with the endpoint's secrets (whsec_…), one per line.",
)
@click.option("--body", type=FILE, required=True, help="File with the exact bytes of the body, as received.")
@click.option("--headers", type=FILE, help="File with the request's headers, one Name: value per line.")
@click.option("--signature", metavar="t=…,v1=…", help="The value of Duro-Signature, instead of --headers.")
@click.option(
    "--tolerance",
    type=_Tolerance(),
    default="5m",
    show_default=True,
    metavar=f"DURATION|{_ANY}",
    help=f"Maximum difference between the signature's time and this machine's clock; {_ANY} to accept any time.",
)
def verify(
    app: App,
    secret_file: str,
    body: str,
    headers: str | None,
    signature: str | None,
    tolerance: float | None,
) -> None:
    """Check the signature of a webhook saved in a file, for support cases. Exit status 1 when it is not valid.

    Every signature found in the headers is checked. One of the files may be - for standard input.

    \b
    Example:
      duro verify --secret-file secret.txt --body body.json --headers headers.txt --tolerance any
      duro verify --secret-file secret.txt --body body.json --signature 't=1782637200,v1=5257a8…'
    """
    if (headers is None) == (signature is None):
        raise click.UsageError("Give either --headers FILE or --signature VALUE.")
    if [secret_file, body, headers].count(STDIN) > 1:
        raise click.UsageError("Only one of the files can be standard input: save the others in files.")
    prefix = app.settings.header_prefix
    given = (
        {f"{prefix}-Signature": signature}
        if signature is not None
        else parse_headers(read_text(headers or "").splitlines())
    )
    secrets = read_secrets(secret_file)
    for secret in secrets:
        parse_secret(secret)
    check = check_webhook(given, read_bytes(body), secrets, time.time(), prefix=prefix, tolerance_s=tolerance)
    app.result(_shape(check), lambda out: _show(out, check))
    if not check.valid:
        raise NotGenuine(f"The webhook is not valid: {check.fault}")


class NotGenuine(DuroError):
    """The signature is not valid. The exit status is for scripts."""


def _shape(check: Check) -> dict[str, object]:
    return {
        "valid": check.valid,
        "signatures": [
            {"header": signature.header, "valid": signature.fault is None, "fault": signature.fault}
            for signature in check.signatures
        ],
    }


def _show(out: Console, check: Check) -> None:
    rows = [(f.header, "valid" if f.fault is None else "not valid") for f in check.signatures]
    table(out, ("Signature", "Verdict"), rows, none="No signature in these headers.")
