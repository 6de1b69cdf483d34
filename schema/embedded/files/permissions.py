"""Let the server's user reach its files when root has installed or put them below a private directory.

Directories on the way get the search bit alone, which lets nobody list them. The installed programs, which are
public, become readable. Nothing else is opened, and whatever is opened is logged.
"""

import logging
import os
import stat
from pathlib import Path

from schema.embedded.files.account import Account
from schema.errors import Unavailable

logger = logging.getLogger(__name__)


def permission_class(status: os.stat_result, account: Account) -> int:
    """How far the account's three bits are shifted: 6 for the owner, 3 for the group, 0 for others."""
    if status.st_uid == account.uid:
        return 6
    return 3 if status.st_gid == account.gid else 0


def missing_bits(status: os.stat_result, account: Account, wanted: int) -> int:
    """The mode bits to add so that the account has `wanted` (an octal digit); 0 when it has them."""
    return (wanted << permission_class(status, account)) & ~stat.S_IMODE(status.st_mode)


def open_way(path: Path, account: Account) -> None:
    """`path` is an absolute directory without symbolic links; it and its parents become passable."""
    if account.is_ours:
        return
    for directory in (*reversed(path.parents), path):
        if _grant(directory, account, stat.S_IXOTH):
            logger.warning(
                "Let the user that runs PostgreSQL pass through %s (search permission).", directory
            )


def open_programs(path: Path, account: Account) -> None:
    """Everything below `path` becomes readable, and executable where it is so for its owner."""
    if account.is_ours:
        return
    opened = False
    for directory, _subdirectories, files in os.walk(path):
        opened |= _grant(Path(directory), account, stat.S_IROTH | stat.S_IXOTH)
        for name in files:
            opened |= _grant_program(Path(directory, name), account)
    if opened:
        logger.warning("Let the user that runs PostgreSQL read the programs in %s.", path)


def _grant_program(file: Path, account: Account) -> bool:
    if file.is_symlink():  # its target lies in the same tree
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
            f"The user that runs PostgreSQL cannot enter {path} ({error.strerror}); "
            "open it to others, or run duro as an ordinary user."
        ) from error
    return True
