"""In which order the addresses of a host are tried, and how long each may take (RFC 8305 in spirit, one at a time).

    checked addresses ─► families interleaved ─► rotated to the one to begin with ─► tried until one connects

The next address is tried when one refuses, is unreachable, or does not connect within its share of the time. A connection
that was made decides: when TLS or HTTP fails on it, no other address is tried in that attempt. The receiver has been
reached then, its certificate and software are most likely the same everywhere, and a request
that may have arrived must not be sent to its neighbour within the same attempt.

The next attempt begins with the address that answered last, or, when an attempt got no status, with the one
behind that attempt's last address.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Final

from delivery.egress.special_addresses import Address

LEAST_SHARE: Final = 0.25
"""Seconds. What RFC 8305 gives an address before it turns to the next."""


def interleave(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Each address once, families in turn, IPv4 first: it is IPv6 that is announced without being reachable."""
    distinct = dict.fromkeys(addresses)
    by_family = [[address for address in distinct if address.version == version] for version in (4, 6)]
    return tuple(address for address in chain(*zip_longest(*by_family)) if address is not None)


def share(seconds: float, addresses: int) -> float:
    """Of the `seconds` that are left, how many the next of so many addresses may take."""
    return min(seconds, max(seconds / addresses, LEAST_SHARE))
