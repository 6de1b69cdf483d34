"""Starts the server at most once, waits until it is ready, and stops all of its processes.

server.lock shows whether any of its processes is alive. postmaster.pid shows whether it is ready, but may be stale.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from schema.embedded.files.address import (
    HOST,
    Address,
    choose_port,
    choose_socket_dir,
    port_is_free,
    read_address,
    write_address,
)
from schema.embedded.files.configuration import write_configuration
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.installation import Installation
from schema.embedded.files.locks import FileLock, is_held
from schema.embedded.files.server_log import log_size, read_log, rotate_log
from schema.embedded.process.programs import launch, run
from schema.embedded.process.server_failures import failure_message, port_in_use
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable

START_TIMEOUT: Final = 300.0  # replaying max_wal_size after a crash on a slow disk
_FAST_TIMEOUT: Final = 60.0  # the last checkpoint; then "immediate" stops it and the next start recovers
_IMMEDIATE_TIMEOUT: Final = 30.0
_PORT_ATTEMPTS: Final = 5

# Lines of postmaster.pid, from 0 (src/include/utils/pidfile.h).
_PID_PORT, _PID_SOCKET_DIR, _PID_STATUS = 3, 4, 7


def start_and_wait(installation: Installation, progress: Callable[[str], None]) -> Address:
    """The caller holds start.lock. Raises Unavailable."""
    startup = _Startup(installation, progress)
    if not wait_until(startup.ready, START_TIMEOUT):
        raise Unavailable(
            f"The embedded PostgreSQL was not ready after {START_TIMEOUT:.0f} s. See {installation.data.log} and try again."
        )
    return startup.address


class _Startup:
    """Starts the server if none is alive, and retries on another port if the port is in use."""

    def __init__(self, installation: Installation, progress: Callable[[str], None]) -> None:
        self._installation = installation
        self._progress = progress
        self._attempts = 0
        self._log_start = 0
        self.address: Address

    def ready(self) -> bool:
        address = read_address(self._installation.data)
        if address is not None and is_ready(self._installation, address):
            self.address = address
            return True
        with FileLock(self._installation.data.server_lock) as lock:
            if lock.try_exclusive():
                self._start(lock)
        return False

    def _start(self, lock: FileLock) -> None:
        if self._attempts == 0:
            self._progress("Starting PostgreSQL 16")
        else:
            self._check_retry()
        self._attempts += 1
        rotate_log(self._installation.data.log)
        self._log_start = log_size(self._installation.data.log)
        start(self._installation, lock, may_change_port=True)

    def _check_retry(self) -> None:
        log = self._installation.data.log
        output = read_log(log, self._log_start)
        if not port_in_use(output) or self._attempts == _PORT_ATTEMPTS:
            raise Unavailable(failure_message("could not be started", output, log))


def start(installation: Installation, lock: FileLock, *, may_change_port: bool) -> None:
    """Launches the server without waiting. The server inherits `lock`, the held server.lock.

    `may_change_port` allows another port if the old one is in use. Attached processes still use a URL with the old port,
    so a restart must not change it.
    """
    data = installation.data
    _discard_stale_files(installation)
    previous = read_address(data)
    address = _choose_address(installation, previous, may_change_port=may_change_port)
    if address != previous:
        write_address(data, address)
    write_configuration(data, address)
    launch(
        (installation.bin_dir / "postgres", "-D", data.pgdata, "-c", f"config_file={data.configuration}"),
        account=installation.account,
        log=data.log,
        keep_fd=lock.fileno(),
    )


def stop(installation: Installation) -> bool:
    """Returns whether no process of the server is left. Also stops a server that is starting."""
    address = read_address(installation.data)
    stopped = _stop(installation, "fast", _FAST_TIMEOUT) or _stop(
        installation, "immediate", _IMMEDIATE_TIMEOUT
    )
    if address and address.socket_dir and address.socket_dir != installation.data.pgdata:
        with suppress(OSError):  # not empty: the server still runs
            address.socket_dir.rmdir()
    return stopped


def is_ready(installation: Installation, address: Address) -> bool:
    lines = _pid_file_lines(installation.data)
    return (
        len(lines) > _PID_STATUS
        and lines[_PID_STATUS] == "ready"
        and is_held(installation.data.server_lock)
        and _accepts_connections(installation, HOST, address.port)
    )


def _choose_address(
    installation: Installation, previous: Address | None, *, may_change_port: bool
) -> Address:
    socket_dir = choose_socket_dir(
        installation.data.pgdata, previous.socket_dir if previous else None, installation.account
    )
    if previous is None or (may_change_port and not port_is_free(previous.port)):
        return Address(choose_port(port_is_free), socket_dir)
    return Address(previous.port, socket_dir)


def _discard_stale_files(installation: Installation) -> None:
    """Removes lock files of an ended server. The caller holds server.lock, so no server of duro's is alive.

    PostgreSQL refuses to start while any process has the pid in its old lock files. After a restart of a container that
    is common.
    """
    lines = _pid_file_lines(installation.data)
    if len(lines) > _PID_SOCKET_DIR and _accepts_connections(
        installation, lines[_PID_SOCKET_DIR] or HOST, lines[_PID_PORT]
    ):
        raise Unavailable(
            f"A PostgreSQL that duro did not start is running on {installation.data.pgdata}. Stop it and try again."
        )
    installation.data.pid_file.unlink(missing_ok=True)
    for left_over in installation.data.pgdata.glob(".s.PGSQL.*"):
        left_over.unlink(missing_ok=True)


def _accepts_connections(installation: Installation, host: str, port: int | str) -> bool:
    command = (installation.bin_dir / "pg_isready", "-q", "-t", "3", "-h", host, "-p", str(port))
    status, _output = run(command, account=installation.account, timeout=10)
    return status == 0


def _stop(installation: Installation, mode: str, timeout: float) -> bool:
    command = (installation.bin_dir / "pg_ctl", "stop", "-D", installation.data.pgdata, "-m", mode, "-W")
    signalled = False

    def gone() -> bool:
        nonlocal signalled
        if not is_held(installation.data.server_lock):
            return True
        if not signalled:  # a server that was just launched has no pid file yet
            status, _output = run(command, account=installation.account, timeout=30)
            signalled = status == 0
        return False

    return wait_until(gone, timeout)


def _pid_file_lines(data: DataDir) -> list[str]:
    try:
        text = data.pid_file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]
