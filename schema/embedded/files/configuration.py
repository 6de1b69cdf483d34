"""duro.conf, the server's configuration, written anew at every start.

It includes the cluster's own postgresql.conf first and overrides it. What an operator sets with ALTER SYSTEM is
read last by PostgreSQL and wins.
"""

from pathlib import Path
from typing import Final

from schema.embedded.files.address import HOST, Address
from schema.embedded.files.atomic_file import write_atomically
from schema.embedded.files.data_dir import DataDir

# Name, value and the reason for it, which is written to the file as well.
SETTINGS: Final = (
    ("listen_addresses", HOST, "for this machine alone"),
    ("unix_socket_permissions", "0700", "as private as the directory it lies in"),
    ("password_encryption", "scram-sha-256", "the server keeps verifiers, not passwords"),
    ("cluster_name", "duro", "tells its processes from those of other servers"),
    ("fsync", "on", "a committed event survives a power cut"),
    ("synchronous_commit", "on", "a commit that was confirmed is on disk"),
    ("full_page_writes", "on", "a torn page is repaired after a crash"),
    ("max_connections", "200", "pools of several workers, and the producers"),
    ("shared_buffers", "128MB", "starts in a small container; the system's cache does the rest"),
    ("max_wal_size", "2GB", "checkpoints by time and not by volume: fewer full pages are written"),
    ("checkpoint_timeout", "15min", "the same; at worst it costs some seconds of recovery"),
    ("wal_compression", "pglz", "full pages shrink to a fraction; the one method every build has"),
    (
        "max_parallel_workers_per_gather",
        "0",
        "short queries gain nothing, and /dev/shm is 64 MB in a container",
    ),
    ("max_parallel_maintenance_workers", "0", "the same, for building indexes"),
    ("jit", "off", "compiling takes longer than any query here"),
    ("idle_in_transaction_session_timeout", "0", "a producer's long transaction is its own affair"),
    ("client_connection_check_interval", "1s", "a query whose client was killed lets go of its locks soon"),
    ("tcp_keepalives_idle", "60", "a client that vanished is noticed within 90 s"),
    ("tcp_keepalives_interval", "10", "the same"),
    ("tcp_keepalives_count", "3", "the same"),
    ("timezone", "UTC", "stored times mean the same everywhere"),
    ("log_timezone", "UTC", "the same in the log"),
    ("log_min_messages", "warning", "what an operator should see"),
    ("log_line_prefix", "%m [%p] %q%u@%d ", "who and when"),
    ("log_statement", "none", "a statement may hold a secret"),
    ("log_min_duration_statement", "-1", "the same, for slow ones"),
    ("log_min_error_statement", "panic", "the same, for failed ones"),
    ("log_error_verbosity", "terse", "the same: DETAIL quotes the row, CONTEXT the statement"),
)


def write_configuration(data: DataDir, address: Address) -> None:
    """Readable to all because the server's user is not ours when we are root. It holds no secret."""
    write_atomically(data.configuration, render(data.pgdata, address), mode=0o644)


def render(pgdata: Path, address: Address) -> str:
    settings = (
        ("port", str(address.port), "chosen free at the first start and kept"),
        ("unix_socket_directories", _directory_list(address.socket_dir), "private to the server's user"),
        *SETTINGS,
    )
    own = pgdata / "postgresql.conf"
    return "\n".join(
        (
            "# Written by duro at every start; change a setting with ALTER SYSTEM instead.",
            f"include_if_exists {quote(str(own))}",
            *(f"{name} = {quote(value)}  # {reason}" for name, value, reason in settings),
            "",
        )
    )


def quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _directory_list(directory: Path | None) -> str:
    """A comma would end the path, were it not in double quotes."""
    return "" if directory is None else '"' + str(directory).replace('"', '""') + '"'
