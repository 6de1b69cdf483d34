"""Loads SQL by name: `queries/log.sql` holds statements, each under `-- name: NAME` and a line of description.
`load("log")["NAME"]` is the statement, with native $1 parameters.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(file: str) -> Mapping[str, str]:
    text = files("schema").joinpath("queries", f"{file}.sql").read_text(encoding="utf-8")
    _preamble, *parts = _HEADING.split(text)
    names, statements = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"queries/{file}.sql names a statement twice")
    return MappingProxyType(dict(zip(names, statements, strict=True)))
