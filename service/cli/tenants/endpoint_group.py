"""The group `duro endpoint`, and functions that its commands share. The commands are in endpoint_commands.py (an endpoint's
fields), endpoint_switches.py (enable, disable, pause, resume) and endpoint_sending.py (test, backfill).
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from schema.connections.database import Database
from schema.core.endpoints import Endpoint
from schema.ids import ENDPOINT
from service.admin.endpoint_admin import EndpointAdmin, endpoint_admin
from service.admin.shapes import endpoint_shape
from service.cli import options
from service.cli.app import App, group
from service.cli.tenants.endpoint_views import show_endpoint

T = TypeVar("T")
ID: Final = options.Id(ENDPOINT)


@group("endpoint")
def endpoint() -> None:
    """Create and manage webhook endpoints. An endpoint is a URL of a tenant, in one mode."""


def administer(app: App, work: Callable[[EndpointAdmin], Coroutine[Any, Any, T]]) -> T:
    async def run(database: Database) -> T:
        async with endpoint_admin(app.settings, database) as admin:
            return await work(admin)

    return app.with_database(run)


def show_changed(app: App, changed: Endpoint) -> None:
    app.result(endpoint_shape(changed), lambda out: show_endpoint(out, changed))
