"""The server's address: a loopback port and a socket directory, chosen once and stored in address.json."""

import json
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schema.embedded.files.account import Account
from schema.embedded.files.atomic_file import write_atomically
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.permissions import make_passable
from schema.errors import Unavailable

HOST: Final = "127.0.0.1"

# Below the ports that Linux (32768) and macOS (49152) use for outgoing connections. Otherwise an outgoing
# connection could take the server's port while the server is down.
PORTS: Final = range(20000, 30000)

SOCKET_PATH_LIMIT: Final = 103  # bytes; macOS, Linux allows 107


@dataclass(frozen=True)
class Address:
    port: int
    socket_dir: Path | None


def read_address(data: DataDir) -> Address | None:
    """Returns None if there is no file yet or it is damaged. Then a new address is chosen."""
    try:
        stored = json.loads(data.address.read_text(encoding="utf-8"))
        socket_dir = stored["socket_dir"]
        return Address(int(stored["port"]), None if socket_dir is None else Path(socket_dir))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def write_address(data: DataDir, address: Address) -> None:
    socket_dir = None if address.socket_dir is None else str(address.socket_dir)
    write_atomically(data.address, json.dumps({"port": address.port, "socket_dir": socket_dir}) + "\n")


def choose_port(is_free: Callable[[int], bool], draw: Callable[[range], int] = secrets.choice) -> int:
    for _ in range(100):
        port = draw(PORTS)
        if is_free(port):
            return port
    raise Unavailable(
        f"No free port was found between {PORTS.start} and {PORTS.stop}. Stop some programs that listen there."
    )


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_socket_dir(pgdata: Path, previous: Path | None, account: Account) -> Path | None:
    """Returns the cluster's directory, which is private already.

    If its path is too long for a socket, returns a private temporary directory: the previous one if it is still
    private. Returns None if every path is too long.
    """
    if socket_fits(pgdata):
        return pgdata
    if previous is not None and _is_private(previous, account):
        return previous
    for parent in (Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()):  # noqa: S108 -- mkdtemp is private
        if socket_fits(parent / "duro-12345678"):
            made = Path(tempfile.mkdtemp(prefix="duro-", dir=parent))
            account.take_ownership(made)
            make_passable(parent, account)
            return made
    return None


def socket_fits(directory: Path) -> bool:
    return len(os.fsencode(directory / f".s.PGSQL.{PORTS.stop}.lock")) <= SOCKET_PATH_LIMIT


def _is_private(directory: Path, account: Account) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == account.uid
        and stat.S_IMODE(status.st_mode) == 0o700
    )
