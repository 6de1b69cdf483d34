"""Checks certificate names for hosts whose name has an underscore.

Public authorities certify such names by wildcard only, and OpenSSL does not let a wildcard match an
underscore. So OpenSSL refuses receivers that curl and browsers accept. For these names OpenSSL verifies the
chain and this module the name; for all other names OpenSSL verifies both.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any


def check_here(name: str) -> bool:
    """Whether this module checks the name instead of OpenSSL."""
    return "_" in name


def without_name_check(new_context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Creates a context that does not check names. Trust and expiry are still checked."""
    context = new_context()
    context.check_hostname = False
    assert context.verify_mode is ssl.CERT_REQUIRED
    return context


def matches(certificate: Mapping[str, Any] | None, name: str) -> bool:
    """Whether `certificate`, as `getpeercert` returns it, is valid for `name`.

    A wildcard must be the whole leftmost label, with two or more labels after it. The common name is ignored.
    """
    if not certificate:
        return False
    _, _, parent = name.lower().partition(".")
    accepted = {name.lower()}
    if "." in parent:
        accepted.add(f"*.{parent}")
    return any(
        kind == "DNS" and value.lower() in accepted for kind, value in certificate.get("subjectAltName", ())
    )
