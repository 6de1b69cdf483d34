"""What lies where in the data directory, and what is wrong with it in one sentence."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schema.errors import Unavailable

CHOOSE: Final = "choose a directory that can be used with --data-dir or DURO_DATA_DIR"

_REASONS: Final = {
    errno.EACCES: f"is not writable; make it writable, or {CHOOSE}",
    errno.EPERM: f"is not writable; make it writable, or {CHOOSE}",
    errno.EROFS: f"lies on a read-only file system; {CHOOSE}",
    errno.EEXIST: f"is a file or lies below one; {CHOOSE}",
    errno.ENOTDIR: f"is a file or lies below one; {CHOOSE}",
    errno.ENOSPC: "lies on a disk that is full; free some space and try again",
    errno.EDQUOT: "lies on a disk whose quota is used up; free some space and try again",
    errno.ENAMETOOLONG: f"has too long a path; {CHOOSE}",
    errno.ELOOP: f"leads in a circle of symbolic links; {CHOOSE}",
    errno.ENOLCK: "lies on a file system without file locks; choose one on a local disk",
    errno.ENOSYS: "lies on a file system without file locks; choose one on a local disk",
    errno.EOPNOTSUPP: "lies on a file system without file locks; choose one on a local disk",
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
    """Made if it is missing: for its owner alone, and as root passable (not listable) for the server's user.

    Raises OSError, which `usable` translates.
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
def usable(path: Path) -> Iterator[None]:
    """Turns an OSError from work in the data directory into Unavailable."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be used ({error.strerror}); {CHOOSE}")
        raise Unavailable(f"The data directory {path} {reason}.") from error
