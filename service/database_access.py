"""Gives commands their database: the one in DURO_DATABASE_URL, or the embedded one, which is started if necessary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from schema.connections.database import connect_as_owner
from schema.embedded import attach, ensure_secret_key, wait_stopped
from schema.installation.migrate import MigrationResult, migrate
from schema.secret_repr import HidesSecrets
from service.settings import Settings

Progress = Callable[[str], None]
STOPS_WITHIN_S: Final = 30.0


@dataclass(frozen=True)
class DatabaseAccess(HidesSecrets):
    url: str = field(repr=False)
    """With the owner's login."""
    key: bytes = field(repr=False)
    embedded: bool

    async def migrate(self, progress: Progress, *, beside: bool = False) -> MigrationResult:
        """`beside`: also where the product already has objects in our schemas. Raises Unavailable."""
        owner = await connect_as_owner(self.url)
        try:
            return await migrate(owner, self.key, progress, beside=beside)
        finally:
            await owner.close()


@contextmanager
def open_database(settings: Settings, progress: Progress) -> Iterator[DatabaseAccess]:
    """Opens the database. It blocks while the embedded server starts, so enter it before the event loop. Raises Unavailable.

    The embedded server runs as long as any process is inside this context.
    """
    if settings.database_url is not None:
        key = settings.secret_key or ensure_secret_key(settings.data_dir)
        yield DatabaseAccess(settings.database_url, key, embedded=False)
        return
    server = attach(settings.data_dir, progress=progress)
    try:
        yield DatabaseAccess(server.owner_url, settings.secret_key or server.secret_key, embedded=True)
    finally:
        server.release()
        # As the first process of a container, our exit would kill a server that is still stopping.
        wait_stopped(settings.data_dir, STOPS_WITHIN_S)
