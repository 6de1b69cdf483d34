"""Which addresses a webhook may never reach by itself: a pure function with its reasons.

The list stands on its own. `ipaddress.is_global` is asked as well, since it learns of new registrations, but
Python 3.11's calls multicast, 6to4, fec0::/10, 5f00::/16 and IPv4-compatible addresses global.

IPv4 can hide in IPv6 in several ways, and a gateway unwraps it where we cannot see. Whatever is
hidden is judged too, and so is the wrapping.

    ::a.b.c.d                compatible, deprecated        denied as such
    ::ffff:a.b.c.d           mapped                        IS that IPv4 address: judged and dialled as it
    ::ffff:0:a.b.c.d         translated (SIIT)             denied as such
    64:ff9b::a.b.c.d         NAT64                         passes when the IPv4 does (hosts with IPv6 alone)
    64:ff9b:1::/48           NAT64, local use              denied as such
    2002:AABB:CCDD::         6to4                          denied as such
    2001:0:server::^client   Teredo                        denied as such

An operator's own NAT64 prefix lies in ordinary unicast space and cannot be told apart.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOW_32: Final = 0xFFFF_FFFF

_HIDING: Final[tuple[tuple[IPv6Network, int, int], ...]] = (
    # (network, bits below the hidden address, bits it is inverted with)
    (IPv6Network("::/96"), 0, 0),
    (IPv6Network("::ffff:0:0/96"), 0, 0),
    (IPv6Network("::ffff:0:0:0/96"), 0, 0),
    (_NAT64, 0, 0),
    (IPv6Network("64:ff9b:1::/48"), 0, 0),
    (IPv6Network("2002::/16"), 80, 0),
    (IPv6Network("2001::/32"), 64, 0),
    (IPv6Network("2001::/32"), 0, _LOW_32),
)

_DENIED: Final[tuple[tuple[str, str], ...]] = (
    # More telling reasons first; IANA's special-purpose registries, multicast, and what clouds put elsewhere.
    ("0.0.0.0/8", "an unspecified address"),
    ("10.0.0.0/8", "a private address"),
    ("100.100.100.200/32", "a cloud metadata address"),
    ("100.64.0.0/10", "a carrier-grade NAT address"),
    ("127.0.0.0/8", "a loopback address"),
    ("168.63.129.16/32", "a cloud metadata address"),
    ("169.254.169.254/32", "a cloud metadata address"),
    ("169.254.0.0/16", "a link-local address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an IETF-reserved address"),
    ("192.0.2.0/24", "a documentation address"),
    ("192.31.196.0/24", "an IETF-reserved address"),
    ("192.52.193.0/24", "an IETF-reserved address"),
    ("192.88.99.0/24", "a 6to4 relay address"),
    ("192.168.0.0/16", "a private address"),
    ("192.175.48.0/24", "an IETF-reserved address"),
    ("198.18.0.0/15", "a benchmark-test address"),
    ("198.51.100.0/24", "a documentation address"),
    ("203.0.113.0/24", "a documentation address"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "a broadcast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "an unspecified address"),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4-compatible address"),
    ("::ffff:0:0:0/96", "an IPv4-translated address"),
    ("64:ff9b:1::/48", "a local-use NAT64 address"),
    ("100::/63", "a discard-only address"),
    ("2001::/32", "a Teredo address"),
    ("2001::/23", "an IETF-reserved address"),
    ("2001:db8::/32", "a documentation address"),
    ("2002::/16", "a 6to4 address"),
    ("2620:4f:8000::/48", "an IETF-reserved address"),
    ("3fff::/20", "a documentation address"),
    ("5f00::/16", "an SRv6 address"),
    ("fd00:ec2::254/128", "a cloud metadata address"),
    ("fd20:ce::254/128", "a cloud metadata address"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
)
_IPV4_DENIED: Final = [(IPv4Network(text), why) for text, why in _DENIED if ":" not in text]
_IPV6_DENIED: Final = [(IPv6Network(text), why) for text, why in _DENIED if ":" in text]


def unmapped(address: Address) -> Address:
    """The address that the operating system dials: an IPv4-mapped one is plain IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def hidden_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Every IPv4 address that some gateway might read out of this one."""
    bits = int(address)
    return tuple(
        IPv4Address(((bits >> below) & _LOW_32) ^ inverted)
        for network, below, inverted in _HIDING
        if address in network
    )


@lru_cache(maxsize=8192)
def why_special(address: Address) -> str | None:
    """Why this is not an ordinary public address ("a loopback address"), or None when it is one."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        reason = next((why for network, why in _IPV4_DENIED if address in network), None)
    elif address.scope_id is not None:
        reason = "an address with a zone id"
    else:
        reason = _why_special_ipv6(address)
    if reason is None and not address.is_global:
        return "not a public address"
    return reason


def _why_special_ipv6(address: IPv6Address) -> str | None:
    for network, why in _IPV6_DENIED:
        if address in network:
            return why
    for hidden in hidden_ipv4(address):
        if why_hidden := why_special(hidden):
            return f"{why_hidden} embedded in an IPv6 address"
    if address not in _UNICAST and address not in _NAT64:
        return "an address outside the public IPv6 range"
    return None
