"""Parses endpoint URLs. All other code uses the parsed parts and never parses the URL again.

Two parsers that read a URL differently can be used to bypass the guard. So this parser follows the grammar of
RFC 3986 and refuses hosts that are not canonical (`127.1`, `0x7f000001`, `①②⑦.0.0.1`). The HTTP client
connects to an address from the guard, never to `host`.

Any name that DNS and curl accept is valid: real receivers use underscores, and hyphens at both ends of a
label. A numeric last label is refused, because some parsers read the whole host as an IPv4 address.

Error messages never repeat the URL: its path and query may contain a token.
"""

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NoReturn
from urllib.parse import quote

from schema.errors import InvalidInput
from schema.secret_repr import HidesSecrets

MAX_URL: Final = 2048
MAX_HOST: Final = 253
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_GENERIC: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.IGNORECASE)
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE: Final = "%/:@!$&'()*+,;=-._~"
_QUERY_SAFE: Final = _PATH_SAFE + "?"


@dataclass(frozen=True, slots=True)
class EndpointUrl(HidesSecrets):
    scheme: str
    host: str
    """A lower-case ASCII name (with a trailing dot if it has one) or a canonical address without brackets."""
    port: int
    target: str = field(repr=False)
    """Path and query for the request line: ASCII, percent-encoded, starting with `/`."""
    literal: IPv4Address | IPv6Address | None
    """The address, if `host` is one."""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if isinstance(self.literal, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def tls_name(self) -> str:
        """The name that the certificate must have. RFC 6066 allows no trailing dot."""
        return self.host.removesuffix(".")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


def parse_endpoint_url(text: str) -> EndpointUrl:
    """Parses an endpoint URL. Raises InvalidInput. `str()` of the result parses to an equal result."""
    if len(text) > MAX_URL:
        _refuse(f"is longer than {MAX_URL} characters")
    if not text.isprintable() or " " in text or "\\" in text:
        _refuse("contains whitespace, a backslash or an unprintable character; percent-encode it")
    parts = _GENERIC.fullmatch(text)
    if parts is None or parts[1].lower() not in DEFAULT_PORTS:
        _refuse("must start with https:// (or http:// to a network in DURO_EGRESS_ALLOW)")
    if parts[5] is not None:
        _refuse("must not have a #fragment: HTTP does not send it")
    if _BAD_ESCAPE.search(text):
        _refuse("contains a % that is not followed by two hexadecimal digits; write %25 for a percent sign")

    scheme = parts[1].lower()
    host, literal, port = _parse_authority(parts[2])
    query = f"?{quote(parts[4], safe=_QUERY_SAFE)}" if parts[4] else ""
    url = EndpointUrl(
        scheme=scheme,
        host=host,
        port=DEFAULT_PORTS[scheme] if port is None else port,
        target=(quote(parts[3], safe=_PATH_SAFE) or "/") + query,
        literal=literal,
    )
    if len(str(url)) > MAX_URL:
        _refuse(f"is longer than {MAX_URL} characters once percent-encoded")
    return url


def _parse_authority(authority: str) -> tuple[str, IPv4Address | IPv6Address | None, int | None]:
    if "@" in authority:
        _refuse("must not contain a user name or password; use a custom header instead")
    if not authority.isascii():
        _refuse("has a host that is not ASCII; write the name in punycode (xn--…)")
    if "%" in authority:
        _refuse("must not have a % in its host: escapes and zone ids are not supported")
    bracketed = _BRACKETED.fullmatch(authority)
    if bracketed:
        address = _parse_ipv6(bracketed[1])
        return str(address), address, _parse_port(bracketed[2])
    host, colon, port = authority.lower().partition(":")
    try:
        literal = IPv4Address(host)
    except AddressValueError:
        literal = None
        _check_name(host)
    return host, literal, _parse_port(port if colon else None)


def _parse_ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        _refuse("must have an IPv6 address in its brackets")


def _parse_port(text: str | None) -> int | None:
    if text is None:
        return None
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        _refuse("must have a port from 1 to 65535")
    return int(text)


def _check_name(host: str) -> None:
    if not host:
        _refuse("has no host")
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        _refuse(
            "has an invalid host: a DNS name has at most 253 characters, in labels of 1 to 63 letters, "
            "digits, hyphens and underscores"
        )
    if _NUMBER.fullmatch(labels[-1]):
        _refuse("has a numeric host; write an IPv4 address as four decimal numbers")


def _refuse(fault: str) -> NoReturn:
    raise InvalidInput(f"The endpoint URL {fault}.")
