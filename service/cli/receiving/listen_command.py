"""`duro listen`."""

import json
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import click
import orjson
import uvloop
from rich.console import Console

from delivery.egress.endpoint_url import parse_endpoint_url
from delivery.message.endpoint_secret import parse_secret
from schema.timestamps import iso_millis
from service.cli.app import App, command, main
from service.cli.input_files import FILE, read_secrets
from service.cli.views import visible
from service.receiver.local_receiver import Behaviour, Received, Receiver
from service.worker.signals import stop_on_signals


@dataclass
class _Printer:
    """Prints each webhook and counts them."""

    app: App
    received: int = field(default=0)
    verified: int = field(default=0)

    def __call__(self, webhook: Received) -> None:
        self.received += 1
        self.verified += webhook.check is not None and webhook.check.valid
        now = datetime.now(UTC)
        try:
            self.app.result(_shape(webhook, now), lambda out: _show(out, webhook, now))
        except BrokenPipeError:  # the reader has gone, as in duro listen | head
            signal.raise_signal(signal.SIGTERM)


@command(main, "listen")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8500,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--secret-file",
    type=FILE,
    help="File with the endpoint's secrets (whsec_…), one per line; - is standard input.",
)
@click.option(
    "--forward-to", metavar="URL", help="Forward valid webhooks to this URL, and answer as it does."
)
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    default=200,
    show_default=True,
    help="The status to answer with.",
)
@click.option(
    "--fail-first",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="N",
    help="Answer 503 to the first N attempts of each event, to test retries.",
)
def listen(
    app: App, port: int, secret_file: str | None, forward_to: str | None, status: int, fail_first: int
) -> None:
    """Receive webhooks on this machine, verify both signatures, and print each.

    Invalid webhooks are answered with 400 and not forwarded. Without a secret nothing is verified. For workers to
    deliver here, their DURO_EGRESS_ALLOW must contain 127.0.0.0/8. Ctrl-C stops it. With --json the first line is
    {"url": …}, followed by one line per webhook and {"received": …, "verified": …}.

    \b
    Example:
      duro listen --secret-file secret.txt --forward-to http://127.0.0.1:3000/webhooks
      duro listen --fail-first 2
    """
    secrets = read_secrets(secret_file) if secret_file else []
    for secret in secrets:
        parse_secret(secret)
    if forward_to is not None:
        forward_to = str(parse_endpoint_url(forward_to))
    behaviour = Behaviour(status, fail_first, forward_to)
    printer = _Printer(app)
    uvloop.run(
        _listen(app, port, Receiver(secrets, app.settings.header_prefix, behaviour, printer, time.time))
    )
    counts = {"received": printer.received, "verified": printer.verified}
    app.result(counts, lambda out: out.print(f"{printer.received} received, {printer.verified} verified."))


async def _listen(app: App, port: int, receiver: Receiver) -> None:
    stop = stop_on_signals()
    url = await receiver.listen(port)
    app.result({"url": url}, lambda out: out.print(f"Listening on {url}  (Ctrl-C stops)"))
    await stop.wait()
    await receiver.close()


def _shape(webhook: Received, now: datetime) -> dict[str, object]:
    check = webhook.check
    return {
        "receivedAt": iso_millis(now),
        "id": webhook.id,
        "type": webhook.type,
        "timestamp": webhook.timestamp,
        "attempt": webhook.attempt,
        "verified": None if check is None else check.valid,
        "fault": None if check is None else check.fault,
        "status": webhook.status,
        "note": webhook.note,
        "body": _body_shape(webhook.body),
    }


def _body_shape(body: bytes) -> object:
    """Returns JSON unchanged, with its numbers as written, or else text. No JSON value contains a raw line break."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
    return orjson.Fragment(body.replace(b"\r", b" ").replace(b"\n", b" "))


def _show(out: Console, webhook: Received, now: datetime) -> None:
    check = webhook.check
    if check is None:
        verdict, style = "not checked", "yellow"
    elif check.valid:
        verdict, style = "verified", "green"
    else:
        verdict, style = f"NOT VALID ({check.fault})", "red"
    answer = f"answered {webhook.status}" + (f" ({webhook.note})" if webhook.note else "")
    out.print(
        f"{iso_millis(now)}  {visible(webhook.type)}  {visible(webhook.id)}  attempt {webhook.attempt}",
        style="bold",
    )
    out.print(f"  {verdict}; {visible(answer)}", style=style)
    out.print(_indented(webhook.body), soft_wrap=True)


def _indented(body: bytes) -> str:
    text = body.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return "\n".join(f"  {visible(line)}" for line in text.split("\n"))
