"""duro.conf, the server's configuration, rewritten at every start.

It first includes the cluster's postgresql.conf and overrides it. PostgreSQL reads ALTER SYSTEM settings last, so an
operator's settings take precedence.
"""

from pathlib import Path
from typing import Final

from schema.embedded.files.address import HOST, Address
from schema.embedded.files.atomic_file import write_atomically
from schema.embedded.files.data_dir import DataDir

# Name, value and reason. The reason is written to the file too.
SETTINGS: Final = (
    ("listen_addresses", HOST, "for this machine only"),
    ("unix_socket_permissions", "0700", "as private as its directory"),
    ("password_encryption", "scram-sha-256", "the server stores verifiers, not passwords"),
    ("cluster_name", "duro", "distinguishes its processes from other servers'"),
    ("fsync", "on", "a committed event survives a power failure"),
    ("synchronous_commit", "on", "a confirmed commit is on disk"),
    ("full_page_writes", "on", "a torn page is repaired after a crash"),
    ("max_connections", "200", "pools of several workers, and the producers"),
    ("shared_buffers", "128MB", "fits a small container; the operating system caches the rest"),
    ("max_wal_size", "2GB", "checkpoints by time, not by volume: fewer full pages are written"),
    ("checkpoint_timeout", "15min", "the same; recovery takes some seconds longer at worst"),
    ("wal_compression", "pglz", "full pages shrink to a fraction; every build has this method"),
    (
        "max_parallel_workers_per_gather",
        "0",
        "short queries gain nothing, and /dev/shm is 64 MB in a container",
    ),
    ("max_parallel_maintenance_workers", "0", "the same, for building indexes"),
    ("jit", "off", "compiling takes longer than any of these queries"),
    ("idle_in_transaction_session_timeout", "0", "a producer may keep a transaction open"),
    ("client_connection_check_interval", "1s", "a query whose client was killed releases its locks soon"),
    ("tcp_keepalives_idle", "60", "a lost client is detected within 90 s"),
    ("tcp_keepalives_interval", "10", "the same"),
    ("tcp_keepalives_count", "3", "the same"),
    ("timezone", "UTC", "stored times are the same everywhere"),
    ("log_timezone", "UTC", "the same in the log"),
    ("log_min_messages", "warning", "operators need warnings and errors"),
    ("log_line_prefix", "%m [%p] %q%u@%d ", "time, process, user and database"),
    ("log_statement", "none", "a statement may contain a secret"),
    ("log_min_duration_statement", "-1", "the same, for slow ones"),
    ("log_min_error_statement", "panic", "the same, for failed ones"),
    ("log_error_verbosity", "terse", "the same: DETAIL quotes the row, CONTEXT the statement"),
)


def write_configuration(data: DataDir, address: Address) -> None:
    """Writes it readable for all, because the server's user differs when duro runs as root.

    It contains no secret.
    """
    write_atomically(data.configuration, render(data.pgdata, address), mode=0o644)


def render(pgdata: Path, address: Address) -> str:
    settings = (
        ("port", str(address.port), "chosen at the first start"),
        ("unix_socket_directories", _directory_list(address.socket_dir), "private to the server's user"),
        *SETTINGS,
    )
    own = pgdata / "postgresql.conf"
    return "\n".join(
        (
            "# Rewritten by duro at every start. To change a setting, use ALTER SYSTEM.",
            f"include_if_exists {quote(str(own))}",
            *(f"{name} = {quote(value)}  # {reason}" for name, value, reason in settings),
            "",
        )
    )


def quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _directory_list(directory: Path | None) -> str:
    """Puts the path in double quotes, because a comma separates paths in this list."""
    return "" if directory is None else '"' + str(directory).replace('"', '""') + '"'
