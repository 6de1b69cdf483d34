"""One data directory, the programs that serve it and the account that runs them."""

from dataclasses import dataclass
from pathlib import Path

from schema.embedded.files.account import Account, server_account
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.permissions import open_programs, open_way
from schema.embedded.process.programs import installed_root


@dataclass(frozen=True)
class Site:
    data: DataDir
    install: Path
    account: Account

    @property
    def bin_dir(self) -> Path:
        return self.install / "bin"


def locate(data: DataDir) -> Site:
    """Also opens the way for the account where root has closed it. Raises Unavailable."""
    install = installed_root()
    account = server_account(data.pgdata)
    open_way(data.root, account)
    package = install.parent
    open_way(package, account)
    open_programs(install, account)
    libraries = package.with_name(package.name + ".libs")  # where a Linux wheel keeps libpq; macOS has none
    if libraries.is_dir():
        open_programs(libraries, account)
    return Site(data, install, account)
