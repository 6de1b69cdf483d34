"""Keeps a merchant's URL from reaching what only this machine and its neighbours can reach.

    URL ──parse──► name or address ──resolve──► every address checked ──► one of them
                                                                          │
                    peer checked again ◄── connected ◄── checked again ◄──┘ (dialling.py)

An address that was checked is the address that is dialled, so it does not matter what the name
answers a moment later. A name with one forbidden address is refused whole: the choice among its addresses
is not left to luck. Anything unexpected is an exception, and an exception is no connection.

What an operator allows (DURO_EGRESS_ALLOW) is matched against the address that is dialled, and decides alone. An
IPv4 network covers plain and IPv4-mapped addresses, which the kernel dials alike; it does not cover the
same IPv4 inside NAT64, 6to4 or Teredo, since a gateway elsewhere would dial that on its own network. Only an
allowed IPv6 network opens those, and no IPv6 network covers a mapped address.
Plain http and unusual ports exist only inside what is allowed.
"""

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Final

from delivery.egress.address_order import interleave
from delivery.egress.endpoint_url import EndpointUrl
from delivery.egress.resolver import DnsFailed, Resolver
from delivery.egress.special_addresses import Address, unmapped, why_special
from schema.errors import InvalidInput

Network = IPv4Network | IPv6Network

SAVE_SECONDS: Final = 5.0
LOOPBACK: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class Blocked(Exception):
    """The egress guard blocked the target. The message says why, for the merchant, without the address from DNS."""


@dataclass(frozen=True, slots=True)
class CheckedAddress:
    address: Address
    """Never IPv4-mapped: that is dialled as IPv4."""
    text: str
    """The address, written out."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    allow: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443, 8443})

    def allows(self, address: Address) -> bool:
        """Whether an operator's network covers it."""
        dialled = unmapped(address)
        return any(dialled in network for network in self.allow)

    def refusal(self, scheme: str, port: int, address: Address) -> str | None:
        """Why this may not be dialled, or None."""
        if self.allow and self.allows(address):
            return None
        if reason := why_special(address):
            return f"the target is {reason}"
        return self.refusal_by_scheme(scheme, port)

    def refusal_by_scheme(self, scheme: str, port: int) -> str | None:
        """The same for an address outside the allowed networks, whichever it is."""
        if scheme != "https":
            return "plain http is allowed only to networks in DURO_EGRESS_ALLOW"
        if port not in self.ports:
            ports = " or ".join(map(str, sorted(self.ports)))
            return (
                f"port {port} is not {ports}; other ports are allowed only to networks in DURO_EGRESS_ALLOW"
            )
        return None


class EgressGuard:
    """Every attempt has its addresses checked. What a check decides is a pure function of its arguments and the
    policy, and the last 4,096 decisions are remembered (0.8 µs an attempt instead of 4)."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver) -> None:
        self.policy = policy
        self.resolver = resolver
        self._loopback = tuple(address for address in LOOPBACK if policy.allows(address)) or LOOPBACK
        self._checked = lru_cache(4096)(self._check)

    async def resolve(self, url: EndpointUrl, deadline: float) -> tuple[CheckedAddress, ...]:
        """All addresses of the host, in the order to try them. `deadline` is on the loop's clock.

        Raises Blocked, DnsFailed or TimeoutError.
        """
        addresses = self._by_definition(url)
        if addresses is None:
            addresses = tuple(await self.resolver.resolve(url.host, deadline))
        return self._checked(url.scheme, url.port, addresses)

    def resolve_known(self, url: EndpointUrl) -> tuple[CheckedAddress, ...] | None:
        """The same for a host whose addresses are known without waiting; else None. Raises Blocked or DnsFailed."""
        addresses = self._by_definition(url) or self.resolver.known(url.host)
        return None if addresses is None else self._checked(url.scheme, url.port, tuple(addresses))

    async def check_at_save(self, url: EndpointUrl) -> None:
        """Raises InvalidInput when deliveries to `url` would be blocked as things stand.

        A name that does not resolve is taken on trust for https, where every attempt asks again.
        """
        try:
            await self.resolve(url, asyncio.get_running_loop().time() + SAVE_SECONDS)
        except Blocked as blocked:
            raise InvalidInput(_blocked_at_save(str(blocked))) from None
        except (DnsFailed, TimeoutError):
            if reason := self.policy.refusal_by_scheme(url.scheme, url.port):
                raise InvalidInput(_blocked_at_save(f"its host does not resolve, and {reason}")) from None

    def _by_definition(self, url: EndpointUrl) -> tuple[Address, ...] | None:
        """The addresses of a host that no DNS server is asked about."""
        if url.literal is not None:
            return (url.literal,)
        if _is_localhost(url.host):
            return self._loopback
        return None

    def _check(self, scheme: str, port: int, answered: tuple[Address, ...]) -> tuple[CheckedAddress, ...]:
        addresses = [unmapped(address) for address in answered]
        if not addresses:
            raise DnsFailed("the name has no address")
        for address in addresses:
            if reason := self.policy.refusal(scheme, port, address):
                raise Blocked(reason)
        return tuple(CheckedAddress(address, str(address)) for address in interleave(addresses))


def parse_cidrs(text: str) -> tuple[Network, ...]:
    """`"127.0.0.0/8,10.0.0.0/8"`, or nothing at all. Raises InvalidInput."""
    return tuple(map(_parse_cidr, text.split(","))) if text.strip() else ()


def _parse_cidr(text: str) -> Network:
    entry = text.strip()
    try:
        if "%" in entry:
            raise ValueError("a network has no zone")  # noqa: TRY301  ip_network takes one and forgets it
        interface = ip_interface(entry)
    except ValueError:
        raise InvalidInput(f"{entry!a} is not a network; write it like 10.0.0.0/8 or fd00::/8.") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise InvalidInput(f"{entry!a} has bits set after its prefix; did you mean {network}?")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise InvalidInput(f"{entry!a} is IPv4 written as IPv6; write the IPv4 network.")
    return network


def _is_localhost(host: str) -> bool:
    """RFC 6761: these names are loopback by definition, and no DNS server is asked about them."""
    name = host.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _blocked_at_save(reason: str) -> str:
    return (
        f"The egress guard blocks this endpoint URL: {reason}. Use a public https URL, "
        "or add the target's network to DURO_EGRESS_ALLOW."
    )
