"""`duro work`: one worker."""

import asyncio
import os
import socket
import sys

import click
import uvloop

from service.cli.app import App, command, database_errors, main
from service.database_access import DatabaseAccess, open_database
from service.supervisor import Part, Supervisor
from service.worker.composition import worker
from service.worker.health_server import HealthServer
from service.worker.signals import stop_on_signals
from service.worker.telemetry.exposition import Telemetry


@command(main, "work")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Serve /healthz, /readyz and /metrics on this port; 0 takes a free one.",
)
@click.option(
    "--until-stdin-closes", is_flag=True, hidden=True, help="For a parent process: stop when it is gone."
)
@click.option(
    "--http-fd", type=int, hidden=True, help="For a parent process: serve HTTP on this bound socket."
)
def work(app: App, port: int | None, *, until_stdin_closes: bool, http_fd: int | None) -> None:
    """Run one worker: sequence events, fan them out, deliver them.

    All workers are equal: run any number, on any number of hosts. Each needs the database and the secret key.
    DURO_DATABASE_URL needs no user here: a worker logs in as duro's own roles, with passwords that the key yields.
    Migrate your own database first (duro migrate). Ctrl-C or SIGTERM finishes the attempts in flight and stops.

    \b
    Example:
      DURO_DATABASE_URL=postgresql://db.example.com/duro DURO_SECRET_KEY=… duro work --port 9400
    """
    with open_database(app.settings, app.progress) as base, database_errors():
        uvloop.run(_work(app, base, port, http_fd, until_stdin_closes))


async def _work(
    app: App, base: DatabaseAccess, port: int | None, http_fd: int | None, until_stdin_closes: bool
) -> None:
    stop = stop_on_signals()
    if until_stdin_closes:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: _on_input(stop))
    if base.embedded:
        await base.migrate(app.progress)
    async with worker(app.settings, base.url, base.key) as this:
        http = HealthServer(this, Telemetry(this), stop)
        supervisor = Supervisor([[Part("http", http)], *this.stages()], this.failures)
        ready: dict[str, str | int] = {}
        if port is not None:
            ready["api"] = await http.bind(app.settings.host, port)
        elif http_fd is not None:
            await http.listen_on(socket.socket(fileno=http_fd))
        await this.register()
        ready["worker"] = this.presence.worker_id
        running = asyncio.create_task(supervisor.run(stop))
        if not until_stdin_closes:
            app.result(ready, lambda out: out.print(f"Worker {ready['worker']} is running. Ctrl-C stops it."))
        await running


def _on_input(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()
