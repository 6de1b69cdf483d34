"""The egress guard: prevents requests to private networks through a tenant's URL (SSRF).

    URL ──parse──► name or address ──resolve──► every address checked ──► one of them
                                                                          │
                    peer checked again ◄── connected ◄── checked again ◄──┘ (dialling.py)

Only a checked address is dialled, so a DNS answer that changes after the check has no effect. If one address
of a name is forbidden, the whole name is blocked. Any unexpected error is an exception, and then no
connection is made.

DURO_EGRESS_ALLOW lists networks that the operator allows. It is matched against the dialled address, and a
match overrides all other rules. An IPv4 network includes IPv4-mapped IPv6 addresses, which the kernel dials
as IPv4. It does not include IPv4 embedded in NAT64, 6to4 or Teredo addresses, because a gateway would dial
those on its own network: only an allowed IPv6 network includes them. No IPv6 network includes a mapped
address. Plain http and ports other than DURO_EGRESS_PORTS are possible only to allowed networks.
"""

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Final

from delivery.egress.address_order import interleave
from delivery.egress.endpoint_url import EndpointUrl
from delivery.egress.resolver import DnsFailed, Resolver
from delivery.egress.special_addresses import Address, special_reason, unmapped
from schema.errors import InvalidInput

Network = IPv4Network | IPv6Network

SAVE_SECONDS: Final = 5.0
LOOPBACK: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class Blocked(Exception):
    """The egress guard blocked the target. The message is for the tenant and contains no address from DNS."""


@dataclass(frozen=True, slots=True)
class CheckedAddress:
    address: Address
    """Never IPv4-mapped: such an address is dialled as IPv4."""
    text: str
    """The address in text form."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    allow: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443, 8443})

    def allows(self, address: Address) -> bool:
        """Whether DURO_EGRESS_ALLOW includes the address."""
        dialled = unmapped(address)
        return any(dialled in network for network in self.allow)

    def refusal(self, scheme: str, port: int, address: Address) -> str | None:
        """Returns why this must not be dialled, or None."""
        if self.allow and self.allows(address):
            return None
        if reason := special_reason(address):
            return f"the target is {reason}"
        return self.public_refusal(scheme, port)

    def public_refusal(self, scheme: str, port: int) -> str | None:
        """The same for any public address that is not in an allowed network."""
        if scheme != "https":
            return "plain http is allowed only to networks in DURO_EGRESS_ALLOW"
        if port not in self.ports:
            ports = " or ".join(map(str, sorted(self.ports)))
            return (
                f"port {port} is not {ports}; other ports are allowed only to networks in DURO_EGRESS_ALLOW"
            )
        return None


class EgressGuard:
    """Checks the addresses of every attempt.

    A decision depends only on its arguments and the policy, so the last 4,096 are cached: 0.8 µs per attempt
    instead of 4.
    """

    def __init__(self, policy: EgressPolicy, resolver: Resolver) -> None:
        self.policy = policy
        self.resolver = resolver
        self._loopback = tuple(address for address in LOOPBACK if policy.allows(address)) or LOOPBACK
        self._cached_check = lru_cache(4096)(self._check)

    async def resolve(self, url: EndpointUrl, deadline: float) -> tuple[CheckedAddress, ...]:
        """Returns all addresses of the host in the order to try them. `deadline` is on the loop's clock.

        Raises Blocked, DnsFailed or TimeoutError.
        """
        addresses = self._without_dns(url)
        if addresses is None:
            addresses = tuple(await self.resolver.resolve(url.host, deadline))
        return self._cached_check(url.scheme, url.port, addresses)

    def resolve_cached(self, url: EndpointUrl) -> tuple[CheckedAddress, ...] | None:
        """The same from the DNS cache, or None if a lookup is needed. Raises Blocked or DnsFailed."""
        addresses = self._without_dns(url) or self.resolver.cached(url.host)
        return None if addresses is None else self._cached_check(url.scheme, url.port, tuple(addresses))

    async def check_at_save(self, url: EndpointUrl) -> None:
        """Raises InvalidInput when deliveries to `url` would be blocked now.

        An https name that does not resolve yet is accepted, because every attempt is checked again.
        """
        try:
            await self.resolve(url, asyncio.get_running_loop().time() + SAVE_SECONDS)
        except Blocked as blocked:
            raise InvalidInput(_blocked_at_save(str(blocked))) from None
        except (DnsFailed, TimeoutError):
            if reason := self.policy.public_refusal(url.scheme, url.port):
                raise InvalidInput(_blocked_at_save(f"its host does not resolve, and {reason}")) from None

    def _without_dns(self, url: EndpointUrl) -> tuple[Address, ...] | None:
        """Returns the addresses of a literal or of localhost, which need no DNS; else None."""
        if url.literal is not None:
            return (url.literal,)
        if _is_localhost(url.host):
            return self._loopback
        return None

    def _check(self, scheme: str, port: int, resolved: tuple[Address, ...]) -> tuple[CheckedAddress, ...]:
        addresses = [unmapped(address) for address in resolved]
        if not addresses:
            raise DnsFailed("the name has no address")
        for address in addresses:
            if reason := self.policy.refusal(scheme, port, address):
                raise Blocked(reason)
        return tuple(CheckedAddress(address, str(address)) for address in interleave(addresses))


def parse_cidrs(text: str) -> tuple[Network, ...]:
    """Parses a list such as `"127.0.0.0/8,10.0.0.0/8"`, or an empty one. Raises InvalidInput."""
    return tuple(map(_parse_cidr, text.split(","))) if text.strip() else ()


def _parse_cidr(text: str) -> Network:
    entry = text.strip()
    try:
        if "%" in entry:
            raise ValueError("a network has no zone")  # noqa: TRY301  ip_network accepts a zone and drops it
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
    """RFC 6761: these names are loopback by definition and are never looked up in DNS."""
    name = host.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def _blocked_at_save(reason: str) -> str:
    return (
        f"The egress guard blocks this endpoint URL: {reason}. Use a public https URL, "
        "or add the target's network to DURO_EGRESS_ALLOW."
    )
