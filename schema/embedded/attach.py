"""Attach to the embedded server: the first process in starts it, and it stops when the last one is gone.

    duro up ─┐                                           ┌─ initdb (once) ─► postgres/
    duro work┼─ users.lock (shared) ─► start.lock ───────┼─ keeper, if none runs
    psql …  ─┘  for life               while attaching   └─ postgres, if none runs

    keeper ──── keeper.lock, for life; every 0.2 s:
                  postgres died        ─► starts it again, ever more slowly while that fails
                  users.lock exclusive ─► nobody is attached: stops postgres, lets go of
                                          keeper.lock and then of users.lock, exits

Every fact is an flock(2), which the kernel frees however its holder dies, so there is no pid to guess about:

    users.lock    shared by every attached process; exclusive only while the keeper stops the server
    start.lock    exclusive around everything that starts the server or changes the data directory
    keeper.lock   handed, already locked, to the keeper
    server.lock   handed, already locked, to initdb and postgres: it is free exactly when no process of the
                  server is left, not even one whose starter was killed half-way

The keeper is spawned before the server is started and lives in its own session, so neither Ctrl-C in a terminal
nor SIGKILL of every duro process at any moment leaves a server behind. keeper.lock is let go before users.lock
because a newcomer takes them in the other order: whoever shares users.lock and finds keeper.lock held has a
keeper that will stay. A keeper that was itself killed is replaced by the next process to attach or release;
until then a server that dies stays down.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from schema.embedded.files.address import HOST
from schema.embedded.files.data_dir import DataDir, open_data_dir, usable
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.files.secret_files import (
    ensure_key,
    ensure_secrets,
    read_owner_password,
    read_secret_key,
    read_superuser_password,
)
from schema.embedded.files.site import locate
from schema.embedded.process import cluster, owner, server
from schema.embedded.process.keeper_process import ensure_keeper
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]

STOPPING_TIMEOUT: Final = 30.0  # a fast shutdown writes one checkpoint, seconds at most on a sound disk
STARTING_TIMEOUT: Final = server.START_TIMEOUT + 30.0  # another process may be in the middle of a start

# Of the embedded server's URLs, for other programs that read PGSSLMODE: it listens on loopback alone, without TLS.
_NO_TLS: Final = "sslmode=disable"


@dataclass(frozen=True)
class EmbeddedServer:
    """One process's hold on the server, which runs at least until `release` or the end of this process.

    Children made by fork share the hold. The URLs name TCP loopback and carry passwords.
    """

    data_dir: Path
    bin_dir: Path  # pg_dump, psql and friends of the same version
    socket_dir: Path | None  # None when no directory had a short enough path
    owner_url: str = field(repr=False)  # database duro
    superuser_url: str = field(repr=False)  # database postgres; for tests and drills
    secret_key: bytes = field(repr=False)  # 32 bytes
    _users: FileLock = field(repr=False, compare=False)

    def release(self) -> None:
        """Safe to call again. The keeper stops the server soon after the last release; see `wait_stopped`."""
        if not self._users.closed:
            try:
                ensure_keeper(DataDir(self.data_dir))
            except (OSError, Unavailable) as error:
                logger.warning("No keeper could be started in %s (%s).", self.data_dir, error)
            finally:
                self._users.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


def attach(data_dir: Path, *, progress: Progress = lambda _step: None) -> EmbeddedServer:
    """Blocks until the owner can log in: milliseconds when the server runs, a few seconds the first time.

    Raises Unavailable.
    """
    with usable(data_dir), ExitStack() as on_failure:
        data = open_data_dir(data_dir)
        users = on_failure.enter_context(FileLock(data.users_lock))
        _share(users, progress)
        with _starting(data, progress):
            attached = _bring_up(data, users, progress)
        on_failure.pop_all()
        return attached


def ensure_secret_key(data_dir: Path) -> bytes:
    """The key in this directory, made when there is none: for a service whose database is elsewhere.

    Raises Unavailable.
    """
    with usable(data_dir):
        data = open_data_dir(data_dir)
        with _starting(data, lambda _step: None):
            ensure_key(data)
        return read_secret_key(data.root)


def wait_stopped(data_dir: Path, timeout: float) -> bool:
    """Whether the server is gone within `timeout` seconds; False at once when another process is attached."""
    data = DataDir(data_dir.resolve())
    stopped = False

    def settled() -> bool:
        nonlocal stopped
        stopped = not is_held(data.server_lock)
        return stopped or _others_attached(data)

    wait_until(settled, timeout)
    return stopped


def _bring_up(data: DataDir, users: FileLock, progress: Progress) -> EmbeddedServer:
    cluster.check_version(data)
    ensure_secrets(data)
    site = locate(data)
    ensure_keeper(data)
    is_new = not data.pgdata.exists()
    if is_new:
        progress("Creating the database cluster")
        cluster.create(site)
    address = server.run_until_ready(site, progress)
    owner.ensure_owner(site, address, is_new=is_new)
    ensure_keeper(data)
    where = f"{HOST}:{address.port}"
    return EmbeddedServer(
        data_dir=data.root,
        bin_dir=site.bin_dir,
        socket_dir=address.socket_dir,
        owner_url=f"postgresql://{owner.OWNER}:{read_owner_password(data)}@{where}/{owner.DATABASE}?{_NO_TLS}",
        superuser_url=f"postgresql://{cluster.SUPERUSER}:{read_superuser_password(data)}@{where}/postgres?{_NO_TLS}",
        secret_key=read_secret_key(data.root),
        _users=users,
    )


def _share(users: FileLock, progress: Progress) -> None:
    if wait_until(users.try_shared, 0.5):
        return
    progress("Waiting for PostgreSQL to stop")
    if not wait_until(users.try_shared, STOPPING_TIMEOUT):
        raise Unavailable("The embedded PostgreSQL is still stopping; try again in a minute.")


@contextmanager
def _starting(data: DataDir, progress: Progress) -> Iterator[None]:
    with FileLock(data.start_lock) as lock:
        if not wait_until(lock.try_exclusive, 0.5):
            progress("Waiting for another process that starts PostgreSQL")
            if not wait_until(lock.try_exclusive, STARTING_TIMEOUT):
                raise Unavailable(
                    f"Another process has been starting PostgreSQL in {data.root} for minutes; "
                    "end that process or wait for it, and try again."
                )
        yield


def _others_attached(data: DataDir) -> bool:
    """Shared by someone. Exclusive means that the keeper is stopping the server, free that it soon will."""
    with FileLock(data.users_lock) as users:
        return not users.try_exclusive() and users.try_shared()
