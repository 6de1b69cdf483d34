"""`duro up`: everything on this machine."""

import asyncio
from base64 import b64encode
from dataclasses import replace

import click
import uvloop
from rich.console import Console

from service.backbone import Backbone, backbone
from service.child_worker import ChildWorker
from service.cli.app import App, command, database_errors, main
from service.http_server import HttpServer
from service.runtime import worker
from service.settings import Settings
from service.signals import stop_on_signals
from service.supervisor import Part, Supervisor


@command(main, "up")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="HTTP port; 0 takes a free one.  [default: DURO_PORT, 8400]"
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def up(app: App, port: int | None, workers: int) -> None:
    """Run everything on this machine: database, migrations, API and workers.

    With DURO_DATABASE_URL that database is used; otherwise an embedded PostgreSQL 16 in the data directory. Prints
    where things are once they are ready, and stays until Ctrl-C or SIGTERM, which lets attempts under way end.

    \b
    Example:
      duro up --port 8400 --workers 2
    """
    settings = app.settings if port is None else replace(app.settings, port=port)
    with backbone(settings, app.progress) as base, database_errors():
        uvloop.run(_up(app, settings, base, workers))
        app.progress("Stopping")


async def _up(app: App, settings: Settings, base: Backbone, workers: int) -> None:
    stop = stop_on_signals()
    await base.migrate(app.progress)
    async with worker(settings, base.url, base.key) as first:
        http = HttpServer(first, settings.host, settings.port, stop)
        api = await http.bind()
        await first.register()
        others = [Part(f"worker process {n}", ChildWorker(_environment(base))) for n in range(2, workers + 1)]
        # One stage, so that all workers drain at the same time.
        all_workers = [Part("worker", Supervisor(first.stages())), *others]
        running = asyncio.create_task(Supervisor([[Part("http", http)], all_workers]).run(stop))
        app.result(
            {"api": api, "database_url": base.url}, lambda out: _show(out, api, settings, base, workers)
        )
        await running


def _environment(base: Backbone) -> dict[str, str]:
    return {"DURO_DATABASE_URL": base.url, "DURO_SECRET_KEY": b64encode(base.key).decode()}


def _show(out: Console, api: str, settings: Settings, base: Backbone, workers: int) -> None:
    where = (
        f"embedded PostgreSQL 16 in {settings.data_dir}" if base.embedded else "the one in DURO_DATABASE_URL"
    )
    out.print(f"duro is up with {workers} worker{'s' if workers > 1 else ''}.")
    out.print(f"  API       {api}  (/healthz, /readyz, /metrics)")
    out.print(f"  Database  {where}")
    out.print("Next: duro tenant create NAME, then duro endpoint create --help. Ctrl-C stops.")
