"""Reads the `passfile` of DURO_DATABASE_URL: lines of host:port:database:user:password."""

import re
import stat
from pathlib import Path
from typing import Final

from schema.errors import Unavailable

_FIELD: Final = re.compile(r"((?:[^\\:]|\\.)*)(?::|$)")
_GROUP_AND_OTHERS: Final = 0o077


def password_in(path: str, host: str, port: int, database: str, user: str) -> str:
    """Returns the password of the first matching line. Raises Unavailable if none matches or others may read
    the file.
    """
    try:
        file = Path(path)
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
            raise Unavailable(f"The passfile {path} is not a regular file: correct DURO_DATABASE_URL.")
        if mode & _GROUP_AND_OTHERS:
            raise Unavailable(f"The passfile {path} can be read by others: chmod 600 it.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Unavailable(
            f"The passfile {path} cannot be read ({reason}): correct DURO_DATABASE_URL."
        ) from None
    wanted = ("localhost" if host.startswith("/") or not host else host, str(port), database, user)
    for line in lines:
        fields = [re.sub(r"\\(.)", r"\1", part) for part in _FIELD.findall(line)]
        if (
            not line.startswith("#")
            and len(fields) > 4
            and all(pattern in {"*", value} for pattern, value in zip(fields, wanted, strict=False))
        ):
            return fields[4]
    raise Unavailable(f"The passfile {path} has no line for this host, port, database and user: add one.")
