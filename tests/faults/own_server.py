"""A PostgreSQL that a test starts itself, to run it in another network or with another clock."""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

from schema.embedded import attach, wait_stopped
from schema.embedded.files.account import server_account
from schema.embedded.files.address import read_address
from schema.embedded.files.data_dir import DataDir
from schema.embedded.process.programs import environment
from schema.embedded.process.waiting import wait_until
from tests.support.servers.databases import TEMPLATE, Cluster, make_template, run_apart, with_database
from tests.support.servers.directories import temporary_directory

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class OwnCluster:
    """A migrated cluster that is not running."""

    data: DataDir
    bin_dir: Path
    key: bytes = field(repr=False)
    owner_url: str = field(repr=False)
    """Of the migrated database, over loopback."""

    def url_at(self, host: str) -> str:
        parts = urlsplit(self.owner_url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@{host}:{parts.port}"))

    def socket_url(self) -> str:
        """Returns the URL through the Unix socket, which works in every network namespace."""
        address = read_address(self.data)
        assert address is not None
        parts = urlsplit(self.owner_url)
        credentials = parts.netloc.rpartition("@")[0]
        query = urlencode({"host": str(address.socket_dir), "port": parts.port})
        return urlunsplit(parts._replace(netloc=f"{credentials}@", query=query))

    def admit(self, network: str) -> None:
        with (self.data.pgdata / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} scram-sha-256\n")

    @contextmanager
    def running(self, *settings: str, variables: Mapping[str, str] | None = None) -> Iterator[None]:
        """Runs it in the calling thread's network namespace, with settings such as listen_addresses=*."""
        options = [option for setting in settings for option in ("-c", setting)]
        with self.data.log.open("ab") as log:
            server = subprocess.Popen(
                [
                    self.bin_dir / "postgres",
                    "-D",
                    self.data.pgdata,
                    "-c",
                    f"config_file={self.data.configuration}",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**environment(), **(variables or {})},
                start_new_session=True,
                **server_account(self.data.pgdata).for_subprocess(),
            )
        try:
            assert wait_until(self._ready, _PATIENCE_S), self.data.log.read_text()
            yield
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(_PATIENCE_S)

    def _ready(self) -> bool:
        lines = self.data.pid_file.read_text().splitlines() if self.data.pid_file.exists() else []
        return len(lines) > 7 and lines[7].strip() == "ready"


@contextmanager
def own_cluster() -> Iterator[OwnCluster]:
    with temporary_directory() as directory:
        with attach(directory / "data") as server:
            run_apart(make_template(Cluster(server, server.secret_key)))
            made = OwnCluster(
                DataDir(directory / "data"),
                server.bin_dir,
                server.secret_key,
                with_database(server.owner_url, TEMPLATE),
            )
        assert wait_stopped(directory / "data", _PATIENCE_S)
        yield made
