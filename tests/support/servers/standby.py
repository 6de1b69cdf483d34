"""A streaming standby of a test's cluster, created as operators do."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from schema.embedded.files.account import server_account
from schema.embedded.process.programs import run
from tests.support.servers.databases import Cluster
from tests.support.servers.directories import free_port


@contextmanager
def standby(cluster: Cluster) -> Iterator[int]:
    """Yields its loopback port. Users and databases are the cluster's."""
    bin_dir = cluster.server.bin_dir
    account = server_account(cluster.server.data_dir / "postgres")
    with tempfile.TemporaryDirectory(prefix="duro-test-") as temporary:
        directory = Path(temporary)
        directory.chmod(0o755)
        data = directory / "standby"
        data.mkdir(mode=0o700)
        account.take_ownership(data)
        port = free_port()

        def call(*command: str | Path) -> None:
            status, output = run(command, account=account, timeout=120)
            assert status == 0, output

        source = cluster.superuser_url("postgres")
        call(bin_dir / "pg_basebackup", "-d", source, "-D", data, "-X", "stream", "-c", "fast", "-R")
        # A standby must allow as many connections as its primary does.
        options = f"-p {port} -c unix_socket_directories={data} -c max_connections=200"
        call(bin_dir / "pg_ctl", "-D", data, "-o", options, "-l", data / "log", "-w", "start")
        try:
            yield port
        finally:
            call(bin_dir / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def with_port(url: str, port: int) -> str:
    """Returns the URL with another port on loopback."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
