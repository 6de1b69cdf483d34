"""Whether a certificate is for a host whose name has an underscore.

OpenSSL lets a wildcard stand for letters, digits and hyphens alone, and public authorities certify names with an underscore
by wildcard alone. So OpenSSL refuses every such receiver, which curl and browsers accept. For these names OpenSSL
verifies the chain, and this module the name; for all other names OpenSSL verifies both.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any


def checked_here(name: str) -> bool:
    return "_" in name


def without_name_check(new_context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """A context of its own. Certificates must still come from a trusted authority and be valid in time."""
    context = new_context()
    context.check_hostname = False
    assert context.verify_mode is ssl.CERT_REQUIRED
    return context


def is_for(certificate: Mapping[str, Any] | None, name: str) -> bool:
    """`certificate` as `getpeercert` returns it. A wildcard is a whole label, the leftmost, with two or more behind it;
    the common name counts for nothing."""
    if not certificate:
        return False
    _, _, parent = name.lower().partition(".")
    accepted = {name.lower()}
    if "." in parent:
        accepted.add(f"*.{parent}")
    return any(
        kind == "DNS" and value.lower() in accepted for kind, value in certificate.get("subjectAltName", ())
    )
