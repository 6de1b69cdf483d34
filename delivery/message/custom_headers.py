"""Validates the custom headers of an endpoint when they are saved, so that sending need not check them.

A custom header must not change the framing of the message, its destination, its signatures, or the encoding of the
response. Values are often credentials, so no error repeats one.
"""

import re
from collections.abc import Mapping
from typing import Final, NoReturn

from schema.errors import InvalidInput

MAX_HEADERS: Final = 20
MAX_NAME: Final = 100
MAX_VALUE: Final = 1024
MAX_TOTAL: Final = 4096

RESERVED: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "cookie2",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
RESERVED_PREFIXES: Final = ("proxy-", "webhook-", "duro-")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")


def validate_custom_headers(
    headers: Mapping[str, str], *, header_prefix: str = "Duro-"
) -> tuple[tuple[str, str], ...]:
    """Returns the headers in their order. Raises InvalidInput.

    `header_prefix` is the configured prefix of duro's own headers; it is reserved too.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(f"Too many custom headers: {len(headers)}, at most {MAX_HEADERS} are allowed.")
    reserved_prefixes = (*RESERVED_PREFIXES, header_prefix.lower())
    seen: set[str] = set()
    for name, value in headers.items():
        _check_name(name, reserved_prefixes)
        _check_value(name, value)
        if name.lower() in seen:
            _reject(name, "is given twice: names are compared without case")
        seen.add(name.lower())
    total = sum(len(f"{name}: {value}\r\n") for name, value in headers.items())
    if total > MAX_TOTAL:
        raise InvalidInput(
            f"The custom headers have {total} bytes in total; at most {MAX_TOTAL} are allowed."
        )
    return tuple(headers.items())


def _check_name(name: object, reserved_prefixes: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        _reject(name, "has an invalid name: use only letters, digits and hyphens")
    if len(name) > MAX_NAME:
        _reject(name, f"has a name longer than {MAX_NAME} characters")
    lowered = name.lower().replace("_", "-")  # gateways pass both to a receiver as one variable
    if lowered in RESERVED or lowered.startswith(reserved_prefixes):
        _reject(name, "is reserved: duro sets it")


def _check_value(name: str, value: object) -> None:
    if not isinstance(value, str):
        _reject(name, "has a value that is not text")
    if len(value) > MAX_VALUE:
        _reject(name, f"has a value longer than {MAX_VALUE} characters")
    if not _VALUE.fullmatch(value):
        _reject(
            name,
            "has a value with line breaks, control characters, non-ASCII characters, or spaces at its ends: remove them",
        )


def _reject(name: object, fault: str) -> NoReturn:
    shown = ascii(name)
    if len(shown) > MAX_NAME:
        shown = f"{shown[:40]}…"
    raise InvalidInput(f"The custom header {shown} {fault}.")
