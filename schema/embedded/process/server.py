"""The running server: started at most once, known to be ready, stopped for certain.

server.lock says whether any process of it is alive; postmaster.pid says whether it is ready, and may be stale.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from schema.embedded.files.address import (
    HOST,
    Address,
    choose_port,
    port_is_free,
    read_address,
    usable_socket_dir,
    write_address,
)
from schema.embedded.files.configuration import write_configuration
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.files.server_log import log_size, read_log, rotate_log
from schema.embedded.files.site import Site
from schema.embedded.process.programs import launch, run
from schema.embedded.process.server_failures import failure_sentence, port_was_taken
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable

START_TIMEOUT: Final = 300.0  # replaying max_wal_size after a crash on a slow disk
_FAST_TIMEOUT: Final = (
    60.0  # the last checkpoint; after it the server is cut off and recovers at its next start
)
_IMMEDIATE_TIMEOUT: Final = 30.0
_PORT_ATTEMPTS: Final = 5

# Lines of postmaster.pid, from 0 (src/include/utils/pidfile.h).
_PID_PORT, _PID_SOCKET_DIR, _PID_STATUS = 3, 4, 7


def run_until_ready(site: Site, progress: Callable[[str], None]) -> Address:
    """The caller holds start.lock. Raises Unavailable."""
    startup = _Startup(site, progress)
    if not wait_until(startup.ready, START_TIMEOUT):
        raise Unavailable(
            f"The embedded PostgreSQL was not ready after {START_TIMEOUT:.0f} s; see {site.data.log} and try again."
        )
    return startup.address


class _Startup:
    """Starts the server when none is alive, and again on another port when the port was taken."""

    def __init__(self, site: Site, progress: Callable[[str], None]) -> None:
        self._site = site
        self._progress = progress
        self._attempts = 0
        self._log_start = 0
        self.address: Address

    def ready(self) -> bool:
        address = read_address(self._site.data)
        if address is not None and is_ready(self._site, address):
            self.address = address
            return True
        with FileLock(self._site.data.server_lock) as lock:
            if lock.try_exclusive():
                self._start(lock)
        return False

    def _start(self, lock: FileLock) -> None:
        if self._attempts == 0:
            self._progress("Starting PostgreSQL 16")
        else:
            self._check_retry()
        self._attempts += 1
        rotate_log(self._site.data.log)
        self._log_start = log_size(self._site.data.log)
        start(self._site, lock, may_move=True)

    def _check_retry(self) -> None:
        log = self._site.data.log
        output = read_log(log, self._log_start)
        if not port_was_taken(output) or self._attempts == _PORT_ATTEMPTS:
            raise Unavailable(failure_sentence("could not be started", output, log))


def start(site: Site, lock: FileLock, *, may_move: bool) -> None:
    """Launches and does not wait. `lock` is server.lock, held, and passes to the server.

    `may_move`: whether another port may be chosen when ours is taken; not while somebody may hold our URL.
    """
    data = site.data
    _discard_stale_files(site)
    previous = read_address(data)
    address = _settle_address(site, previous, may_move=may_move)
    if address != previous:
        write_address(data, address)
    write_configuration(data, address)
    launch(
        (site.bin_dir / "postgres", "-D", data.pgdata, "-c", f"config_file={data.configuration}"),
        account=site.account,
        log=data.log,
        keep_fd=lock.fileno(),
    )


def stop(site: Site) -> bool:
    """Whether no process of the server is left. Also catches one that was being started."""
    address = read_address(site.data)
    stopped = _stop(site, "fast", _FAST_TIMEOUT) or _stop(site, "immediate", _IMMEDIATE_TIMEOUT)
    if address and address.socket_dir and address.socket_dir != site.data.pgdata:
        with suppress(OSError):  # not empty: the server is still there
            address.socket_dir.rmdir()
    return stopped


def is_ready(site: Site, address: Address) -> bool:
    lines = _pid_file_lines(site.data)
    return (
        len(lines) > _PID_STATUS
        and lines[_PID_STATUS] == "ready"
        and is_held(site.data.server_lock)
        and _answers(site, HOST, address.port)
    )


def _settle_address(site: Site, previous: Address | None, *, may_move: bool) -> Address:
    socket_dir = usable_socket_dir(site.data.pgdata, previous.socket_dir if previous else None, site.account)
    if previous is None or (may_move and not port_is_free(previous.port)):
        return Address(choose_port(port_is_free), socket_dir)
    return Address(previous.port, socket_dir)


def _discard_stale_files(site: Site) -> None:
    """We hold server.lock, so no server of ours is alive; but PostgreSQL refuses to start while the process id in
    its old lock files belongs to anybody, and after a restart of a container it often does.
    """
    lines = _pid_file_lines(site.data)
    if len(lines) > _PID_SOCKET_DIR and _answers(site, lines[_PID_SOCKET_DIR] or HOST, lines[_PID_PORT]):
        raise Unavailable(
            f"A PostgreSQL that duro did not start is running on {site.data.pgdata}; stop it and try again."
        )
    site.data.pid_file.unlink(missing_ok=True)
    for left_over in site.data.pgdata.glob(".s.PGSQL.*"):
        left_over.unlink(missing_ok=True)


def _answers(site: Site, host: str, port: int | str) -> bool:
    command = (site.bin_dir / "pg_isready", "-q", "-t", "3", "-h", host, "-p", str(port))
    status, _output = run(command, account=site.account, timeout=10)
    return status == 0


def _stop(site: Site, mode: str, timeout: float) -> bool:
    command = (site.bin_dir / "pg_ctl", "stop", "-D", site.data.pgdata, "-m", mode, "-W")
    signalled = False

    def gone() -> bool:
        nonlocal signalled
        if not is_held(site.data.server_lock):
            return True
        if not signalled:  # it has no pid file yet when it has only just been launched
            status, _output = run(command, account=site.account, timeout=30)
            signalled = status == 0
        return False

    return wait_until(gone, timeout)


def _pid_file_lines(data: DataDir) -> list[str]:
    try:
        text = data.pid_file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]
