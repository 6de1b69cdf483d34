"""Creates the owner's role and database through psql, which keeps passwords out of argv and quotes them."""

from pathlib import Path
from typing import Final

from schema.embedded.files.account import Account
from schema.embedded.files.address import HOST, Address
from schema.embedded.files.installation import Installation
from schema.embedded.files.secret_files import read_owner_password, read_superuser_password
from schema.embedded.process.cluster import SUPERUSER
from schema.embedded.process.programs import run
from schema.embedded.process.server_failures import failure_message
from schema.errors import Unavailable

OWNER: Final = "duro_owner"
DATABASE: Final = "duro"

_SCRIPT: Final = Path(__file__).with_name("owner.sql")
_NOTHING: Final = Path("/dev/null")


def ensure_owner(installation: Installation, address: Address, *, is_new: bool) -> None:
    """The caller holds start.lock. Raises Unavailable.

    `is_new`: the cluster has just been created, and a login attempt would leave an error in its log.
    """
    password = read_owner_password(installation.data)

    def log_in() -> tuple[int, str]:
        return _psql(installation, address, user=OWNER, database=DATABASE, password=password, script=_NOTHING)

    if not is_new and log_in()[0] == 0:
        return
    _set_up(installation, address, password)
    status, output = log_in()
    if status != 0:
        raise Unavailable(failure_message(f"does not let {OWNER} log in", output))


def _set_up(installation: Installation, address: Address, password: str) -> None:
    status, output = _psql(
        installation,
        address,
        user=SUPERUSER,
        database="postgres",
        password=read_superuser_password(installation.data),
        script=_SCRIPT,
        variables={"DURO_OWNER_PASSWORD": password},
    )
    if "password authentication failed" in output:
        raise Unavailable(
            f"{installation.data.superuser_password} does not contain the password of this cluster's superuser. "
            "Restore it from your backup."
        )
    if status != 0:
        raise Unavailable(failure_message("could not be set up", output))


def _psql(
    installation: Installation,
    address: Address,
    *,
    user: str,
    database: str,
    password: str,
    script: Path,
    variables: dict[str, str] | None = None,
) -> tuple[int, str]:
    # VERBOSITY=terse: otherwise an error would quote the statement, including a password.
    flags = ("-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")
    target = ("-h", HOST, "-p", str(address.port), "-U", user, "-d", database)
    return run(
        (installation.bin_dir / "psql", *flags, *target, "-f", script),
        account=Account.current(),
        timeout=60,
        variables={"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", **(variables or {})},
    )
