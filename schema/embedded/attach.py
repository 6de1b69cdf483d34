"""Attaches to the embedded server. The first process starts it, and it stops after the last one has ended.

    duro up ─┐                                           ┌─ initdb (once) ─► postgres/
    duro work┼─ users.lock (shared) ─► start.lock ───────┼─ keeper, if none runs
    psql …  ─┘  for life               while attaching   └─ postgres, if none runs

    keeper ──── keeper.lock, for life; every 0.2 s:
                  postgres died        ─► restarts it, with growing delays while that fails
                  users.lock exclusive ─► no process is attached: stops postgres, releases
                                          keeper.lock and then users.lock, exits

All state is in flock(2) locks. The kernel releases them however the holder dies, so no pid can be stale:

    users.lock    shared by every attached process; exclusive only while the keeper stops the server
    start.lock    exclusive around everything that starts the server or changes the data directory
    keeper.lock   inherited, already locked, by the keeper
    server.lock   inherited, already locked, by initdb and postgres: it is free exactly when no process of the
                  server exists, not even one whose starter was killed

The keeper is spawned before the server and has its own session. So neither Ctrl-C in a terminal nor SIGKILL of all
duro processes leaves a server behind. The keeper releases keeper.lock before users.lock, because an attaching process
takes them in the other order: a process that shares users.lock and finds keeper.lock held has a keeper that will
stay. The next process that attaches or releases replaces a killed keeper. Until then a crashed server stays down.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from schema.embedded.files.address import HOST
from schema.embedded.files.data_dir import DataDir, data_dir_errors, open_data_dir
from schema.embedded.files.installation import find_installation
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.files.secret_files import (
    ensure_key,
    ensure_secrets,
    read_owner_password,
    read_secret_key,
    read_superuser_password,
)
from schema.embedded.process import cluster, owner, server
from schema.embedded.process.keeper_process import ensure_keeper
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable
from schema.secret_repr import HidesSecrets

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]

STOPPING_TIMEOUT: Final = 30.0  # a fast shutdown writes one checkpoint, seconds at most on a sound disk
STARTING_TIMEOUT: Final = server.START_TIMEOUT + 30.0  # another process may have begun a start

# In the embedded server's URLs, for other programs that read PGSSLMODE: it listens on loopback only, without
# TLS.
_NO_TLS: Final = "sslmode=disable"


@dataclass(frozen=True)
class EmbeddedServer(HidesSecrets):
    """A process's attachment to the server, which runs at least until `release` or the end of this process.

    Forked children share the attachment. The URLs use TCP loopback and contain passwords.
    """

    data_dir: Path
    bin_dir: Path  # pg_dump, psql and the other programs of the same version
    socket_dir: Path | None  # None if no directory has a short enough path
    owner_url: str = field(repr=False)  # database duro
    superuser_url: str = field(repr=False)  # database postgres; for tests and drills
    secret_key: bytes = field(repr=False)  # 32 bytes
    _users: FileLock = field(repr=False, compare=False)

    def release(self) -> None:
        """Detaches; further calls do nothing. The keeper stops the server soon after the last release.

        `wait_stopped` waits for that.
        """
        if not self._users.closed:
            try:
                ensure_keeper(DataDir(self.data_dir))
            except (OSError, Unavailable) as error:
                logger.warning(
                    "The process that stops the embedded PostgreSQL in %s could not be started: %s",
                    self.data_dir,
                    error,
                )
            finally:
                self._users.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


def attach(data_dir: Path, *, progress: Progress = lambda _step: None) -> EmbeddedServer:
    """Blocks until the owner can log in: milliseconds if the server runs, a few seconds the first time.

    Raises Unavailable.
    """
    with data_dir_errors(data_dir), ExitStack() as on_failure:
        data = open_data_dir(data_dir)
        users = on_failure.enter_context(FileLock(data.users_lock))
        _take_users_lock(users, progress)
        with _start_lock(data, progress):
            attached = _start_server(data, users, progress)
        on_failure.pop_all()
        return attached


def ensure_secret_key(data_dir: Path) -> bytes:
    """Returns the key in this directory and creates it if needed: for a service with a configured database.

    Raises Unavailable.
    """
    with data_dir_errors(data_dir):
        data = open_data_dir(data_dir)
        with _start_lock(data, lambda _step: None):
            ensure_key(data)
        return read_secret_key(data.root)


def wait_stopped(data_dir: Path, timeout: float) -> bool:
    """Returns whether the server stops within `timeout` seconds.

    Returns False immediately if another process is attached.
    """
    data = DataDir(data_dir.resolve())
    stopped = False

    def finished() -> bool:
        nonlocal stopped
        stopped = not is_held(data.server_lock)
        return stopped or _others_attached(data)

    wait_until(finished, timeout)
    return stopped


def _start_server(data: DataDir, users: FileLock, progress: Progress) -> EmbeddedServer:
    cluster.check_version(data)
    ensure_secrets(data)
    installation = find_installation(data)
    ensure_keeper(data)
    is_new = not data.pgdata.exists()
    if is_new:
        progress("Creating the database cluster")
        cluster.create(installation)
    address = server.start_and_wait(installation, progress)
    owner.ensure_owner(installation, address, is_new=is_new)
    ensure_keeper(data)
    where = f"{HOST}:{address.port}"
    return EmbeddedServer(
        data_dir=data.root,
        bin_dir=installation.bin_dir,
        socket_dir=address.socket_dir,
        owner_url=f"postgresql://{owner.OWNER}:{read_owner_password(data)}@{where}/{owner.DATABASE}?{_NO_TLS}",
        superuser_url=f"postgresql://{cluster.SUPERUSER}:{read_superuser_password(data)}@{where}/postgres?{_NO_TLS}",
        secret_key=read_secret_key(data.root),
        _users=users,
    )


def _take_users_lock(users: FileLock, progress: Progress) -> None:
    if wait_until(users.try_shared, 0.5):
        return
    progress("Waiting for PostgreSQL to stop")
    if not wait_until(users.try_shared, STOPPING_TIMEOUT):
        raise Unavailable("The embedded PostgreSQL is still stopping. Try again in a minute.")


@contextmanager
def _start_lock(data: DataDir, progress: Progress) -> Iterator[None]:
    with FileLock(data.start_lock) as lock:
        if not wait_until(lock.try_exclusive, 0.5):
            progress("Waiting for another process to start PostgreSQL")
            if not wait_until(lock.try_exclusive, STARTING_TIMEOUT):
                raise Unavailable(
                    f"Another process has been starting PostgreSQL in {data.root} for minutes. "
                    "End that process or wait for it, then try again."
                )
        yield


def _others_attached(data: DataDir) -> bool:
    """Returns whether users.lock is shared.

    If it is exclusive, the keeper is stopping the server; if free, it soon will.
    """
    with FileLock(data.users_lock) as users:
        return not users.try_exclusive() and users.try_shared()
