"""Who runs the server. PostgreSQL refuses to be root, so root runs it as a system user of its own."""

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
    def ours(cls) -> Self:
        return cls(os.geteuid(), os.getegid())

    @property
    def is_ours(self) -> bool:
        """Whether it is the user this process runs as."""
        return self.uid == os.geteuid()

    def for_subprocess(self) -> dict[str, Any]:
        """Keyword arguments that make `subprocess` run as this account and nothing more."""
        return {} if self.is_ours else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        if not self.is_ours:
            os.chown(path, self.uid, self.gid)


def server_account(pgdata: Path) -> Account:
    """As root: the owner of an existing cluster (its number may differ between two images that share a volume),
    else the system user, made if it is missing. Raises Unavailable.
    """
    if os.geteuid() != 0:
        return Account.ours()
    if not pgdata.exists():
        return _system_account()
    status = pgdata.stat()
    if status.st_uid == 0:
        raise Unavailable(
            f"{pgdata} belongs to root, as whom PostgreSQL refuses to run; give it to another user, "
            f"for example with chown -R {SYSTEM_USER} {pgdata}."
        )
    return Account(status.st_uid, status.st_gid)


def _system_account() -> Account:
    account = _find()
    if account is None:
        complaint = _useradd()
        # Another process may be adding it: then useradd fails because of its lock or because it is there already.
        wait_until(lambda: _find() is not None, 0 if complaint is None else 5)
        account = _find()
        if account is None:
            raise Unavailable(
                f"PostgreSQL refuses to run as root and the system user {SYSTEM_USER} could not be created "
                f"({complaint}); create that user, or run duro as an ordinary user."
            )
    return account


def _find() -> Account | None:
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _useradd() -> str | None:
    """What went wrong, or None."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or "useradd failed"
