"""Writes the results file. It is replaced atomically, so it always holds complete JSON of the run so far."""

import os
from pathlib import Path
from typing import Any

import orjson

from schema.errors import Unavailable


def require_writable(file: Path, option: str) -> None:
    """Checks the file before the measurements rather than after them. Raises Unavailable."""
    touched = [file] if file.exists() else []
    if _replaceable(file):
        touched.append(file.resolve().parent)
    if not all(os.access(path, os.W_OK) for path in touched):
        raise Unavailable(f"{file} cannot be written. Choose another file with {option}.")


def write_results(file: Path, results: dict[str, Any]) -> None:
    """Replaces the file. Raises Unavailable, and then leaves the previous file unchanged."""
    content = orjson.dumps(results, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
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
        raise Unavailable(f"{file} could not be written ({error.strerror}). Free disk space.") from error


def _replaceable(file: Path) -> bool:
    """Returns whether the file may be replaced: a device or a pipe is written to instead."""
    return file.is_file() or not file.exists()
