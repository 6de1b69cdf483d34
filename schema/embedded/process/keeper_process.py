"""Starts a keeper if none runs. It inherits the locked keeper.lock, so the lock is never free in between."""

import os
import sys
from pathlib import Path
from typing import Final

from schema.embedded.files.account import Account
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import FileLock
from schema.embedded.process.programs import launch

_IMPORTED_FROM: Final = Path(__file__).resolve().parents[3]


def ensure_keeper(data: DataDir) -> None:
    """The caller must share users.lock. Otherwise the keeper stops the server immediately."""
    with FileLock(data.keeper_lock) as lock:
        if lock.try_exclusive():
            launch(
                (sys.executable, "-m", "schema.embedded.process.keeper", data.root, str(lock.fileno())),
                account=Account.current(),
                log=data.log,
                keep_fd=lock.fileno(),
                cwd=_IMPORTED_FROM,  # -m searches it first and finds the same code
                variables=os.environ,
            )
