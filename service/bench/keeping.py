"""Where the figures go: a file that at any moment holds a whole run so far, never half of one."""

import os
from pathlib import Path
from typing import Any

import orjson

from schema.errors import Unavailable


def require_writable(file: Path, option: str) -> None:
    """Before half an hour of work rather than after it. Raises Unavailable."""
    touched = [file] if file.exists() else []
    if _replaceable(file):
        touched.append(file.resolve().parent)
    if not all(os.access(path, os.W_OK) for path in touched):
        raise Unavailable(f"{file} cannot be written: choose another file with {option}.")


def keep(file: Path, figures: dict[str, Any]) -> None:
    """Raises Unavailable; what was kept before is then still there."""
    content = orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        if not _replaceable(file):
            file.write_bytes(content)
            return
        whole = file.resolve()
        part = whole.with_name(f".{whole.name}.{os.getpid()}.part")
        try:
            part.write_bytes(content)
            part.replace(whole)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"{file} could not be written ({error.strerror}): free disk space.") from error


def _replaceable(file: Path) -> bool:
    """Not a device or a pipe, which must stay what it is."""
    return file.is_file() or not file.exists()
