"""The layout of the data directory, and messages for its errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schema.errors import Unavailable

_ELSEWHERE: Final = "another directory with --data-dir or DURO_DATA_DIR"

_REASONS: Final = {
    errno.EACCES: f"is not writable. Make it writable, or choose {_ELSEWHERE}",
    errno.EPERM: f"is not writable. Make it writable, or choose {_ELSEWHERE}",
    errno.EROFS: f"is on a read-only file system. Choose {_ELSEWHERE}",
    errno.EEXIST: f"is a file or below a file. Choose {_ELSEWHERE}",
    errno.ENOTDIR: f"is a file or below a file. Choose {_ELSEWHERE}",
    errno.ENOSPC: "is on a full disk. Free some space and try again",
    errno.EDQUOT: "exceeds the disk quota. Free some space and try again",
    errno.ENAMETOOLONG: f"has a path that is too long. Choose {_ELSEWHERE}",
    errno.ELOOP: f"is a loop of symbolic links. Choose {_ELSEWHERE}",
    errno.ENOLCK: "is on a file system without file locks. Choose a directory on a local disk",
    errno.ENOSYS: "is on a file system without file locks. Choose a directory on a local disk",
    errno.EOPNOTSUPP: "is on a file system without file locks. Choose a directory on a local disk",
}


@dataclass(frozen=True)
class DataDir:
    root: Path

    @property
    def pgdata(self) -> Path:
        return self.root / "postgres"

    @property
    def version_file(self) -> Path:
        return self.pgdata / "PG_VERSION"

    @property
    def pid_file(self) -> Path:
        return self.pgdata / "postmaster.pid"

    @property
    def log(self) -> Path:
        return self.root / "postgres.log"

    @property
    def configuration(self) -> Path:
        return self.root / "duro.conf"

    @property
    def address(self) -> Path:
        return self.root / "address.json"

    @property
    def superuser_password(self) -> Path:
        return self.root / "superuser.password"

    @property
    def owner_password(self) -> Path:
        return self.root / "owner.password"

    @property
    def secret_key(self) -> Path:
        return self.root / "secret.key"

    @property
    def users_lock(self) -> Path:
        return self.root / "users.lock"

    @property
    def start_lock(self) -> Path:
        return self.root / "start.lock"

    @property
    def keeper_lock(self) -> Path:
        return self.root / "keeper.lock"

    @property
    def server_lock(self) -> Path:
        return self.root / "server.lock"


def open_data_dir(path: Path) -> DataDir:
    """Creates the directory if it is missing: private to its owner. As root, the server's user can also pass through it,
    but not list it.

    Raises OSError, which `data_dir_errors` translates.
    """
    root = path.resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        root.mkdir()
    except FileExistsError:
        if not root.is_dir():
            raise
    else:
        root.chmod(0o711 if os.geteuid() == 0 else 0o700)
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
    return DataDir(root)


@contextmanager
def data_dir_errors(path: Path) -> Iterator[None]:
    """Translates an OSError about the data directory into Unavailable."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be used ({error.strerror}). Choose {_ELSEWHERE}")
        raise Unavailable(f"The data directory {path} {reason}.") from error
