"""Reads files and standard input for commands, with size limits and one sentence per error."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from schema.errors import InvalidInput

STDIN: Final = "-"
FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True)
MOST_BYTES: Final = 2 * 1024 * 1024
_MOST_SECRETS: Final = 10


def read_bytes(path: str) -> bytes:
    """`-` is standard input."""
    try:
        if path == STDIN:
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from None
    if len(content) > MOST_BYTES:
        raise InvalidInput(f"{_shown(path)} is larger than {MOST_BYTES // 1024**2} MiB: give a smaller file.")
    return content


def read_text(path: str) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{_shown(path)} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8."
        ) from None


def read_secret() -> str:
    """Reads a secret from standard input, so that no process list shows it. A terminal prompts without echo."""
    if sys.stdin.isatty():
        return str(click.prompt("Secret (whsec_…)", hide_input=True, err=True))
    return _one(read_secrets(STDIN))


def read_secrets(path: str) -> list[str]:
    """Reads one secret per line, several during a rotation. The caller checks them."""
    secrets = read_text(path).split()
    if not 1 <= len(secrets) <= _MOST_SECRETS:
        raise InvalidInput(
            f"{_shown(path)} holds {len(secrets)} secrets: put one whsec_… on each line, at most {_MOST_SECRETS}."
        )
    return secrets


def parse_headers(lines: Iterable[str]) -> dict[str, str]:
    """Parses `Name: value` lines, as curl -i prints them. Its InvalidInput never repeats a value."""
    headers: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, colon, value = line.partition(":")
        if not line.strip() or _is_first_line(line):
            continue
        if not colon or not name.strip():
            raise InvalidInput(f"Line {number} of the headers is not of the form Name: value.")
        add_header(headers, name.strip(), value.strip())
    return headers


def add_header(headers: dict[str, str], name: str, value: str) -> None:
    if name.lower() in map(str.lower, headers):
        raise InvalidInput(f"The header {name!a} is given twice: remove one of them.")
    headers[name] = value


def _is_first_line(line: str) -> bool:
    """Whether this is a request or status line, as in a whole saved message."""
    return line.startswith("HTTP/") or line.rstrip().endswith((" HTTP/1.1", " HTTP/1.0", " HTTP/2"))


def _one(secrets: list[str]) -> str:
    if len(secrets) != 1:
        raise InvalidInput(f"Standard input holds {len(secrets)} secrets: give one.")
    return secrets[0]


def _shown(path: str) -> str:
    return "Standard input" if path == STDIN else path
