"""Where the demo's database is: the configured one, a data directory, or a place that is gone afterwards."""

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
class Place:
    settings: Settings
    told: str
    """For people."""
    lasting: bool
    """Whether the database outlives the demo; set it to keep a temporary one."""

    @property
    def environment(self) -> str:
        """What to put before a `duro` command that is to look there."""
        return "" if self.settings.database_url else f"DURO_DATA_DIR={self.settings.data_dir} "


@contextmanager
def place(settings: Settings, data_dir: Path | None) -> Iterator[Place]:
    if settings.database_url is not None:
        if data_dir is not None:
            raise InvalidInput(
                "--data-dir is for the embedded database: remove it, or unset DURO_DATABASE_URL."
            )
        yield Place(settings, "the database in DURO_DATABASE_URL", lasting=True)
    elif data_dir is not None:
        there = replace(settings, data_dir=data_dir)
        yield Place(there, f"an embedded PostgreSQL 16 in {data_dir}", lasting=True)
    else:
        yield from _temporary(settings)


def _temporary(settings: Settings) -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="duro-demo-"))
    if os.geteuid() == 0:
        top.chmod(0o711)  # the server's own user passes through
    data_dir = top / "data"
    found = Place(replace(settings, data_dir=data_dir), "a temporary embedded PostgreSQL 16", lasting=False)
    try:
        yield found
    finally:
        if not found.lasting:
            _remove(top, data_dir)


def _remove(top: Path, data_dir: Path) -> None:
    """A second Ctrl-C does not hurry this: it takes a moment, and half of it would leave a server's files behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if data_dir.exists():
            wait_stopped(data_dir, _STOPS_WITHIN_S)
        shutil.rmtree(top)
    finally:
        signal.signal(signal.SIGINT, before)
