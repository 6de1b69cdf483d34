"""The database a command works on: the one in DURO_DATABASE_URL, or the embedded one, started if need be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from schema.database import connect_as_owner
from schema.embedded import attach, ensure_secret_key
from schema.migrate import migrate
from service.settings import Settings

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Backbone:
    url: str = field(repr=False)
    """The owner's."""
    key: bytes = field(repr=False)
    embedded: bool

    async def migrate(self, progress: Progress) -> int:
        """Returns how many files were applied. Raises Unavailable."""
        owner = await connect_as_owner(self.url)
        try:
            return await migrate(owner, self.key, progress)
        finally:
            await owner.close()


@contextmanager
def backbone(settings: Settings, progress: Progress) -> Iterator[Backbone]:
    """Blocks while the embedded server starts, so enter it before the event loop. Raises Unavailable.

    The embedded server runs for as long as any process is in here.
    """
    if settings.database_url is not None:
        key = settings.secret_key or ensure_secret_key(settings.data_dir)
        yield Backbone(settings.database_url, key, embedded=False)
        return
    with attach(settings.data_dir, progress=progress) as server:
        yield Backbone(server.owner_url, settings.secret_key or server.secret_key, embedded=True)
