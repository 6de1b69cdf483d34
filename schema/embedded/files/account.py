"""Chooses the account that runs the server. PostgreSQL refuses to run as root, so root uses a system user."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable

SYSTEM_USER: Final = "duro-postgres"


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int

    @classmethod
    def current(cls) -> Self:
        return cls(os.geteuid(), os.getegid())

    @property
    def is_current(self) -> bool:
        """Whether this process runs as this account."""
        return self.uid == os.geteuid()

    def for_subprocess(self) -> dict[str, Any]:
        """Returns the arguments that make `subprocess` run as this account, without extra groups."""
        return {} if self.is_current else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take_ownership(self, path: Path) -> None:
        if not self.is_current:
            os.chown(path, self.uid, self.gid)


def server_account(pgdata: Path) -> Account:
    """Returns the current account unless it is root.

    As root: the owner of an existing cluster, else the system user, which is created if it is missing. The owner's uid
    may differ between two images that share a volume. Raises Unavailable.
    """
    if os.geteuid() != 0:
        return Account.current()
    if not pgdata.exists():
        return _system_account()
    status = pgdata.stat()
    if status.st_uid == 0:
        raise Unavailable(
            f"{pgdata} belongs to root, and PostgreSQL refuses to run as root. Change its owner, for example with "
            f"chown -R {SYSTEM_USER} {pgdata}."
        )
    return Account(status.st_uid, status.st_gid)


def _system_account() -> Account:
    account = _find()
    if account is None:
        error = _useradd()
        # Another process may be adding the user: then useradd fails because of its lock or because the user
        # exists.
        wait_until(lambda: _find() is not None, 0 if error is None else 5)
        account = _find()
        if account is None:
            raise Unavailable(
                f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER} could not be created "
                f"({error}). Create that user, or run duro as an ordinary user."
            )
    return account


def _find() -> Account | None:
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _useradd() -> str | None:
    """Returns the error, or None."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or "useradd failed"
