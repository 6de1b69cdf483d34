"""The owner's role and database, made through psql, which keeps passwords out of argv and quotes them."""

from pathlib import Path
from typing import Final

from schema.embedded.files.account import Account
from schema.embedded.files.address import HOST, Address
from schema.embedded.files.secret_files import read_owner_password, read_superuser_password
from schema.embedded.files.site import Site
from schema.embedded.process.cluster import SUPERUSER
from schema.embedded.process.programs import run
from schema.embedded.process.server_failures import failure_sentence
from schema.errors import Unavailable

OWNER: Final = "duro_owner"
DATABASE: Final = "duro"

_SCRIPT: Final = Path(__file__).with_name("owner.sql")
_NOTHING: Final = Path("/dev/null")


def ensure_owner(site: Site, address: Address, *, is_new: bool) -> None:
    """The caller holds start.lock. Raises Unavailable.

    `is_new`: the cluster has just been made, and a log-in would leave a failure in its log.
    """
    password = read_owner_password(site.data)

    def log_in() -> tuple[int, str]:
        return _psql(site, address, user=OWNER, database=DATABASE, password=password, script=_NOTHING)

    if not is_new and log_in()[0] == 0:
        return
    _set_up(site, address, password)
    status, output = log_in()
    if status != 0:
        raise Unavailable(failure_sentence(f"does not let {OWNER} log in", output))


def _set_up(site: Site, address: Address, password: str) -> None:
    status, output = _psql(
        site,
        address,
        user=SUPERUSER,
        database="postgres",
        password=read_superuser_password(site.data),
        script=_SCRIPT,
        variables={"DURO_OWNER_PASSWORD": password},
    )
    if "password authentication failed" in output:
        raise Unavailable(
            f"{site.data.superuser_password} does not hold the password of this cluster's superuser; "
            "put it back from your backup."
        )
    if status != 0:
        raise Unavailable(failure_sentence("could not be set up", output))


def _psql(
    site: Site,
    address: Address,
    *,
    user: str,
    database: str,
    password: str,
    script: Path,
    variables: dict[str, str] | None = None,
) -> tuple[int, str]:
    # VERBOSITY=terse: an error would otherwise quote the statement, and with it a password.
    flags = ("-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")
    target = ("-h", HOST, "-p", str(address.port), "-U", user, "-d", database)
    return run(
        (site.bin_dir / "psql", *flags, *target, "-f", script),
        account=Account.ours(),
        timeout=60,
        variables={"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", **(variables or {})},
    )
