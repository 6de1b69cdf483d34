"""`duro up`: everything on this machine."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import click
import uvloop
from rich.console import Console

from schema.connections.database import target_of
from schema.errors import InvalidInput
from service.cli.app import App, command, database_errors, main
from service.cli.options import beside
from service.database_access import DatabaseAccess, open_database
from service.settings import Settings
from service.supervisor import Part, Supervisor
from service.worker.child_worker import ChildWorker
from service.worker.composition import worker
from service.worker.health_server import HealthServer
from service.worker.listen_socket import listener, url_at
from service.worker.signals import stop_on_signals
from service.worker.telemetry.exposition import Telemetry


@command(main, "up")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="HTTP port of the first worker; 0 takes free ports. The others use the ports after it.  [default: DURO_PORT, 8400]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of worker processes."
)
@beside
def up(app: App, port: int | None, workers: int, *, beside: bool) -> None:
    """Run everything on this machine: database, migrations and workers.

    Uses the database in DURO_DATABASE_URL, or else an embedded PostgreSQL 16 in the data directory. Prints the
    addresses once everything is ready. Ctrl-C or SIGTERM finishes the attempts in flight and stops.

    Needs the login of the database's owner in DURO_DATABASE_URL.

    \b
    Example:
      duro up --port 8400 --workers 2
    """
    settings = app.settings if port is None else replace(app.settings, port=port)
    with open_database(settings, app.progress) as base, database_errors():
        uvloop.run(_up(app, settings, base, workers, beside=beside))
        app.progress("Stopping")


async def _up(app: App, settings: Settings, base: DatabaseAccess, workers: int, *, beside: bool) -> None:
    stop = stop_on_signals()
    await base.migrate(app.progress, beside=beside)
    async with worker(settings, base.url, base.key) as first:
        own = Supervisor(first.stages(), first.failures)
        http = HealthServer(first, Telemetry(first), stop)
        url = await http.bind(settings.host, settings.port)
        with _listeners(settings, workers - 1) as sockets:
            urls = [url, *(url_at(settings.host, sock.getsockname()[1]) for sock in sockets)]
            await first.register()
            others = [
                Part(f"worker process {number}", ChildWorker(_environment(base), sock))
                for number, sock in enumerate(sockets, start=2)
            ]
            # One stage, so that all workers drain at the same time.
            whole = Supervisor([[Part("http", http)], [Part("worker", own), *others]], first.failures)
            running = asyncio.create_task(whole.run(stop))
            app.result(
                {"api": url, "database_url": base.url, "workers": urls},
                lambda out: _show(out, urls, settings, base),
            )
            await running


@contextmanager
def _listeners(settings: Settings, count: int) -> Iterator[Sequence[socket.socket]]:
    """Sockets for the further workers: on the ports after the first one's, or on free ones. Raises DuroError."""
    first = settings.port
    if first + count > 65535:
        raise InvalidInput(
            f"With {count + 1} workers the port can be at most {65535 - count}: choose a lower --port."
        )
    with ExitStack() as opened:
        yield [
            opened.enter_context(listener(settings.host, first and first + number))
            for number in range(1, count + 1)
        ]


def _environment(base: DatabaseAccess) -> dict[str, str]:
    return {
        "DURO_DATABASE_URL": target_of(base.url).without_login().url(),
        "DURO_SECRET_KEY": b64encode(base.key).decode(),
    }


def _show(out: Console, urls: Sequence[str], settings: Settings, base: DatabaseAccess) -> None:
    where = f"embedded PostgreSQL 16 in {settings.data_dir}" if base.embedded else "DURO_DATABASE_URL"
    out.print(f"duro is up with {len(urls)} worker{'s' if len(urls) > 1 else ''}.")
    for number, url in enumerate(urls, start=1):
        out.print(f"  Worker {number}  {url}  (/healthz, /readyz, /metrics)")
    out.print(f"  Database  {where}")
    out.print("Next: duro tenant create NAME, then duro endpoint create --help. Ctrl-C stops.")
