"""See to it that a keeper runs. It inherits keeper.lock already locked, so there is never a moment without one."""

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
    """The caller shares users.lock, else the keeper stops the server at once."""
    with FileLock(data.keeper_lock) as lock:
        if lock.try_exclusive():
            launch(
                (sys.executable, "-m", "schema.embedded.process.keeper", data.root, str(lock.fileno())),
                account=Account.ours(),
                log=data.log,
                keep_fd=lock.fileno(),
                cwd=_IMPORTED_FROM,  # -m looks there first, and finds the code that is running here
                variables=os.environ,
            )
