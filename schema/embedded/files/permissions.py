"""Gives the server's user access to its files if root has put them below a private directory.

Parent directories get only the search bit, which does not allow listing. The installed programs, which are public,
become readable. No other permission changes, and every change is logged.
"""

import logging
import os
import stat
from pathlib import Path

from schema.embedded.files.account import Account
from schema.errors import Unavailable

logger = logging.getLogger(__name__)


def permission_class(status: os.stat_result, account: Account) -> int:
    """Returns the shift of the account's permission bits: 6 for the owner, 3 for the group, 0 for others."""
    if status.st_uid == account.uid:
        return 6
    return 3 if status.st_gid == account.gid else 0


def missing_bits(status: os.stat_result, account: Account, wanted: int) -> int:
    """Returns the mode bits to add so that the account has `wanted` (an octal digit)."""
    return (wanted << permission_class(status, account)) & ~stat.S_IMODE(status.st_mode)


def make_passable(path: Path, account: Account) -> None:
    """Adds the search permission to `path`, an absolute directory without symbolic links, and its parents."""
    if account.is_current:
        return
    for directory in (*reversed(path.parents), path):
        if _grant(directory, account, stat.S_IXOTH):
            logger.warning("Added the search permission on %s for the user that runs PostgreSQL.", directory)


def make_readable(path: Path, account: Account) -> None:
    """Makes everything below `path` readable, and executable where its owner can execute it."""
    if account.is_current:
        return
    opened = False
    for directory, _subdirectories, files in os.walk(path):
        opened |= _grant(Path(directory), account, stat.S_IROTH | stat.S_IXOTH)
        for name in files:
            opened |= _grant_program(Path(directory, name), account)
    if opened:
        logger.warning("Made the programs in %s readable for the user that runs PostgreSQL.", path)


def _grant_program(file: Path, account: Account) -> bool:
    if file.is_symlink():  # its target is in the same tree
        return False
    executable = file.stat().st_mode & stat.S_IXUSR
    return _grant(file, account, stat.S_IROTH | (stat.S_IXOTH if executable else 0))


def _grant(path: Path, account: Account, wanted: int) -> bool:
    status = path.stat()
    missing = missing_bits(status, account, wanted)
    if not missing:
        return False
    try:
        path.chmod(stat.S_IMODE(status.st_mode) | missing)
    except OSError as error:
        raise Unavailable(
            f"The user that runs PostgreSQL cannot enter {path} ({error.strerror}). "
            "Give others permission to enter it, or run duro as an ordinary user."
        ) from error
    return True
