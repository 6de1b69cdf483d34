"""Chooses the demo's database: the configured one, a data directory, or a temporary one that is removed
afterwards.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from schema.embedded import wait_stopped
from schema.errors import InvalidInput
from service.settings import Settings

_STOPS_WITHIN_S: Final = 30.0


@dataclass
class DemoDatabase:
    settings: Settings
    description: str
    """For progress messages."""
    persistent: bool
    """Whether the database outlives the demo. Set it to keep a temporary database."""

    @property
    def environment(self) -> str:
        """The prefix that makes a `duro` command use this database."""
        return "" if self.settings.database_url else f"DURO_DATA_DIR={self.settings.data_dir} "


@contextmanager
def demo_database(settings: Settings, data_dir: Path | None) -> Iterator[DemoDatabase]:
    if settings.database_url is not None:
        if data_dir is not None:
            raise InvalidInput(
                "--data-dir is for the embedded database. Remove it, or unset DURO_DATABASE_URL."
            )
        yield DemoDatabase(settings, "the database in DURO_DATABASE_URL", persistent=True)
    elif data_dir is not None:
        embedded = replace(settings, data_dir=data_dir)
        yield DemoDatabase(embedded, f"an embedded PostgreSQL 16 in {data_dir}", persistent=True)
    else:
        yield from _temporary(settings)


def _temporary(settings: Settings) -> Iterator[DemoDatabase]:
    top = Path(tempfile.mkdtemp(prefix="duro-demo-"))
    if os.geteuid() == 0:
        top.chmod(0o711)  # the server runs as another user and needs to enter it
    data_dir = top / "data"
    found = DemoDatabase(
        replace(settings, data_dir=data_dir), "a temporary embedded PostgreSQL 16", persistent=False
    )
    try:
        yield found
    finally:
        if not found.persistent:
            _remove(top, data_dir)


def _remove(top: Path, data_dir: Path) -> None:
    """Removes the directory.

    Ctrl-C is ignored during this, because it would leave the server's files behind.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if data_dir.exists():
            wait_stopped(data_dir, _STOPS_WITHIN_S)
        shutil.rmtree(top)
    finally:
        signal.signal(signal.SIGINT, before)
