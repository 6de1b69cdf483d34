"""Lists the addresses that no webhook may reach unless the operator allows them, each with its reason.

The list is complete without `ipaddress.is_global`. That is checked as well, because it gains new
registrations, but in Python 3.11 it calls multicast, 6to4, fec0::/10, 5f00::/16 and IPv4-compatible addresses
global.

IPv6 can embed IPv4 in several ways, and a gateway outside our view extracts it. Both the embedded address and
its form are checked.

    ::a.b.c.d                compatible, deprecated        always denied
    ::ffff:a.b.c.d           mapped                        checked and dialled as that IPv4 address
    ::ffff:0:a.b.c.d         translated (SIIT)             always denied
    64:ff9b::a.b.c.d         NAT64                         allowed when the IPv4 is (for IPv6-only hosts)
    64:ff9b:1::/48           NAT64, local use              always denied
    2002:AABB:CCDD::         6to4                          always denied
    2001:0:server::^client   Teredo                        always denied

An operator's own NAT64 prefix is ordinary unicast space and cannot be recognized.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOW_32: Final = 0xFFFF_FFFF

_EMBEDDING: Final[tuple[tuple[IPv6Network, int, int], ...]] = (
    # (network, bits below the embedded address, mask that inverts it)
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
    # IANA's special-purpose registries, multicast and cloud metadata addresses. The most specific reason
    # comes first.
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
    """Returns the address that the operating system dials: plain IPv4 for an IPv4-mapped one."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Returns every IPv4 address that a gateway might extract from this one."""
    bits = int(address)
    return tuple(
        IPv4Address(((bits >> below) & _LOW_32) ^ inverted)
        for network, below, inverted in _EMBEDDING
        if address in network
    )


@lru_cache(maxsize=8192)
def special_reason(address: Address) -> str | None:
    """Returns why this is not a public address ("a loopback address"), or None."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        reason = next((why for network, why in _IPV4_DENIED if address in network), None)
    elif address.scope_id is not None:
        reason = "an address with a zone id"
    else:
        reason = _special_ipv6_reason(address)
    if reason is None and not address.is_global:
        return "not a public address"
    return reason


def _special_ipv6_reason(address: IPv6Address) -> str | None:
    for network, why in _IPV6_DENIED:
        if address in network:
            return why
    for embedded in embedded_ipv4(address):
        if embedded_reason := special_reason(embedded):
            return f"{embedded_reason} embedded in an IPv6 address"
    if address not in _UNICAST and address not in _NAT64:
        return "an address outside the public IPv6 range"
    return None
