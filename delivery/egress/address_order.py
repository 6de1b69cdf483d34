"""Decides in which order a host's addresses are tried, and for how long each (like RFC 8305, but one at a
time).

    checked addresses ─► families interleaved ─► rotated to the preferred one ─► tried until one connects

The next address is tried when one refuses, is unreachable, or does not connect within its share of the time.
After a connection, no other address is tried in that attempt, even when TLS or HTTP fails. The other
addresses most likely have the same certificate and software, and a request that may have arrived must not be
sent twice in one attempt.

The next attempt begins with the address that last returned a status. After an attempt without a status, it
begins with the address after the last one tried.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Final

from delivery.egress.special_addresses import Address

MIN_SHARE: Final = 0.25
"""Seconds. RFC 8305 waits this long before it tries the next address."""


def interleave(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Returns each address once, alternating families, IPv4 first: IPv6 is more often published but
    unreachable.
    """
    distinct = dict.fromkeys(addresses)
    by_family = [[address for address in distinct if address.version == version] for version in (4, 6)]
    return tuple(address for address in chain(*zip_longest(*by_family)) if address is not None)


def share(seconds: float, addresses: int) -> float:
    """Returns how many of the remaining `seconds` the next of `addresses` addresses may take."""
    return min(seconds, max(seconds / addresses, MIN_SHARE))
