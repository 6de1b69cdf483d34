"""What a merchant may add to the request, decided when it is saved, so that sending never has to doubt it.

A custom header may not change the message's framing, its destination, what signs it, or how the answer
is encoded. Values are often credentials, so no message repeats one.
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
    """The headers in their order, fit for the wire. Raises InvalidInput.

    `header_prefix` is the configured prefix of our own headers; it is reserved as well.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(f"At most {MAX_HEADERS} custom headers are possible, not {len(headers)}.")
    reserved_prefixes = (*RESERVED_PREFIXES, header_prefix.lower())
    seen: set[str] = set()
    for name, value in headers.items():
        _check_name(name, reserved_prefixes)
        _check_value(name, value)
        if name.lower() in seen:
            _refuse(name, "is given twice; names do not differ by case")
        seen.add(name.lower())
    total = sum(len(f"{name}: {value}\r\n") for name, value in headers.items())
    if total > MAX_TOTAL:
        raise InvalidInput(
            f"The custom headers take {total} bytes together; at most {MAX_TOTAL} are possible."
        )
    return tuple(headers.items())


def _check_name(name: object, reserved_prefixes: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        _refuse(name, "has a name that is not made of letters, digits and hyphens")
    if len(name) > MAX_NAME:
        _refuse(name, f"has a name longer than {MAX_NAME} characters")
    lowered = name.lower().replace("_", "-")  # which gateways hand on to a receiver as the same variable
    if lowered in RESERVED or lowered.startswith(reserved_prefixes):
        _refuse(name, "is reserved: it is set by the sender alone")


def _check_value(name: str, value: object) -> None:
    if not isinstance(value, str):
        _refuse(name, "has a value that is not text")
    if len(value) > MAX_VALUE:
        _refuse(name, f"has a value longer than {MAX_VALUE} characters")
    if not _VALUE.fullmatch(value):
        _refuse(
            name,
            "has a value with line breaks, control or non-ASCII characters, or spaces at its ends; remove them",
        )


def _refuse(name: object, fault: str) -> NoReturn:
    shown = ascii(name)
    if len(shown) > MAX_NAME:
        shown = f"{shown[:40]}…"
    raise InvalidInput(f"The custom header {shown} {fault}.")
