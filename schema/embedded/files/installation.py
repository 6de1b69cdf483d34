"""An installation: a data directory, the programs that serve it and the account that runs them."""

from dataclasses import dataclass
from pathlib import Path

from schema.embedded.files.account import Account, server_account
from schema.embedded.files.data_dir import DataDir
from schema.embedded.files.permissions import make_passable, make_readable
from schema.embedded.process.programs import installed_root


@dataclass(frozen=True)
class Installation:
    data: DataDir
    programs_root: Path
    account: Account

    @property
    def bin_dir(self) -> Path:
        return self.programs_root / "bin"


def find_installation(data: DataDir) -> Installation:
    """Returns the installation, after giving its account the permissions it needs. Raises Unavailable."""
    programs_root = installed_root()
    account = server_account(data.pgdata)
    make_passable(data.root, account)
    package = programs_root.parent
    make_passable(package, account)
    make_readable(programs_root, account)
    libraries = package.with_name(package.name + ".libs")  # a Linux wheel has libpq there; macOS does not
    if libraries.is_dir():
        make_readable(libraries, account)
    return Installation(data, programs_root, account)
