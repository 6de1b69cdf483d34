"""The cluster on disk: created atomically, and accepted only with this major version."""

import secrets
import shutil
from pathlib import Path
from typing import Final

from schema.embedded.files.atomic_file import sync_directory, write_atomically
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.installation import Installation
from schema.embedded.files.locks import FileLock
from schema.embedded.files.secret_files import read_superuser_password
from schema.embedded.process.programs import run
from schema.embedded.process.server_failures import failure_message
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable

MAJOR_VERSION: Final = "16"
SUPERUSER: Final = "postgres"

_STAGING: Final = "postgres.new-"
_TIMEOUT: Final = 300.0  # half a second on a laptop, far longer on a network disk with slow fsync


def check_version(data: DataDir) -> None:
    """Raises Unavailable if the cluster is damaged or has another major version."""
    if not data.pgdata.exists():
        return
    try:
        version = data.version_file.read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise Unavailable(
            f"{data.pgdata} is not a PostgreSQL cluster. Move it away, or choose another --data-dir."
        ) from None
    if version != MAJOR_VERSION:
        raise Unavailable(
            f"{data.pgdata} was created by PostgreSQL {version}, but duro includes PostgreSQL {MAJOR_VERSION}. "
            f"Dump it with version {version} and restore it into a new data directory, or choose another --data-dir."
        )


def create(installation: Installation) -> None:
    """The caller holds start.lock.

    Builds in a temporary directory and renames it, so a kill leaves nothing incomplete.
    """
    data = installation.data
    with FileLock(data.server_lock) as lock:
        if not wait_until(lock.try_exclusive, _TIMEOUT):
            raise Unavailable(
                f"An initdb of an earlier start still runs in {data.root}. End it and try again."
            )
        for abandoned in data.root.glob(_STAGING + "*"):
            shutil.rmtree(abandoned)
        staging = data.root / (_STAGING + secrets.token_hex(4))
        staging.mkdir(mode=0o700)
        try:
            _initdb(installation, staging, lock)
            (staging / "data").rename(data.pgdata)
            sync_directory(data.root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _initdb(installation: Installation, staging: Path, lock: FileLock) -> None:
    password = staging / "password"
    write_atomically(password, read_superuser_password(installation.data))
    installation.account.take_ownership(password)
    installation.account.take_ownership(staging)
    status, output = run(
        (
            installation.bin_dir / "initdb",
            f"--pgdata={staging / 'data'}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth-local=scram-sha-256",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            # Sorts by bytes: a new C library, as in a new base image, cannot change the order of an index.
            "--no-locale",
            "--data-checksums",
            "--no-instructions",
        ),
        account=installation.account,
        timeout=_TIMEOUT,
        keep_fd=lock.fileno(),
    )
    password.unlink()
    if status != 0:
        raise Unavailable(failure_message("could not create its cluster", output))
