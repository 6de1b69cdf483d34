"""The three secrets of a data directory, each in a file of mode 0600, created once and before the cluster."""

import base64
import binascii
import secrets
from pathlib import Path
from typing import Final

from schema.embedded.files.atomic_file import write_atomically
from schema.embedded.files.data_dir import DataDir
from schema.errors import Unavailable

KEY_BYTES: Final = 32


def ensure_secrets(data: DataDir) -> None:
    """The caller holds start.lock. Raises Unavailable if a secret that the cluster depends on is missing.

    A missing owner password is replaced, and set in the cluster when the owner cannot log in with it.
    """
    cluster_exists = data.pgdata.exists()
    for path in (data.superuser_password, data.secret_key):
        if cluster_exists and not path.exists():
            raise Unavailable(
                f"{path} is missing although {data.pgdata} exists. Restore it from your backup, "
                "or move the whole data directory away to start with an empty one."
            )
    for path, text in (
        (data.superuser_password, secrets.token_urlsafe(32)),
        (data.owner_password, secrets.token_urlsafe(32)),
    ):
        if not path.exists():
            write_atomically(path, text + "\n")
    ensure_key(data)


def ensure_key(data: DataDir) -> None:
    """The caller holds start.lock."""
    if not data.secret_key.exists():
        write_atomically(data.secret_key, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")


def read_superuser_password(data: DataDir) -> str:
    return _read(data.superuser_password)


def read_owner_password(data: DataDir) -> str:
    return _read(data.owner_password)


def read_secret_key(data_dir: Path) -> bytes:
    """Returns the service's AES key, 32 bytes. Raises Unavailable if it is missing or damaged."""
    path = DataDir(data_dir).secret_key
    try:
        key = base64.b64decode(_read(path), validate=True)
    except (OSError, binascii.Error) as error:
        raise _no_key(path) from error
    if len(key) != KEY_BYTES:
        raise _no_key(path)
    return key


def _no_key(path: Path) -> Unavailable:
    return Unavailable(f"{path} does not contain {KEY_BYTES} bytes in base64. Restore it from your backup.")


def _read(path: Path) -> str:
    """Restricts the mode first, because a restore from a backup may have widened it."""
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path.read_text(encoding="ascii", errors="replace").strip()
